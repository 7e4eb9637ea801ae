"""Indiana University (Open-i): X-rays with the radiologist's report.

python data_download/iu_xray.py [--to DIR]: the same as `multimix download iu_xray`.
Addresses, checksums, licence and citation: ../multimix/manifests/iu_xray.json
"""
import sys

from multimix.cli import main

sys.exit(main(["download", "iu_xray", *sys.argv[1:]]))
