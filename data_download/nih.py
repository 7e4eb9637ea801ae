"""ChestX-ray14: 112,120 X-rays of 30,805 patients, with findings read from the reports.

python data_download/nih.py [--to DIR] [--images FILE]: the same as `multimix download nih`.
Addresses, checksums, licence and citation: ../multimix/manifests/nih.json
"""
import sys

from multimix.cli import main

sys.exit(main(["download", "nih", *sys.argv[1:]]))
