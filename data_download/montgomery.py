"""Montgomery County: tuberculosis screening in the USA, with lung masks.

python data_download/montgomery.py [--to DIR]: the same as `multimix download montgomery`.
Addresses, checksums, licence and citation: ../multimix/manifests/montgomery.json
"""
import sys

from multimix.cli import main

sys.exit(main(["download", "montgomery", *sys.argv[1:]]))
