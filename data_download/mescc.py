"""Spinal cord compression in MRI, as features of a ResNet-50 and grades (BoostMIS).

python data_download/mescc.py [--to DIR]: the same as `multimix download mescc`.
Addresses, checksums, licence and citation: ../multimix/manifests/mescc.json
"""
import sys

from multimix.cli import main

sys.exit(main(["download", "mescc", *sys.argv[1:]]))
