"""Chest X-rays of children with and without pneumonia.

python data_download/kermany.py [--to DIR]: the same as `multimix download kermany`.
Addresses, checksums, licence and citation: ../multimix/manifests/kermany.json
"""
import sys

from multimix.cli import main

sys.exit(main(["download", "kermany", *sys.argv[1:]]))
