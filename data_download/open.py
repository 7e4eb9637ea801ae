"""Everything to begin with, no registration: PneumoniaMNIST at 224 pixels, Montgomery, Shenzhen.

python data_download/open.py [--to DIR]: the same as `multimix download open`.
Addresses, checksums, licence and citations are those of its parts: ../multimix/manifests/open.json
"""
import sys

from multimix.cli import main

sys.exit(main(["download", "open", *sys.argv[1:]]))
