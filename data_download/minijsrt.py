"""The teaching set of the same society: JSRT at 256 x 256 with lungs and heart.

python data_download/minijsrt.py [--to DIR]: the same as `multimix download minijsrt`.
Addresses, checksums, licence and citation: ../multimix/manifests/minijsrt.json
"""
import sys

from multimix.cli import main

sys.exit(main(["download", "minijsrt", *sys.argv[1:]]))
