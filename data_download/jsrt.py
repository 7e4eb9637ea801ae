"""Chest X-rays with and without a nodule, with the SCR masks of lungs and heart.

python data_download/jsrt.py [--to DIR]: the same as `multimix download jsrt`.
Addresses, checksums, licence and citation: ../multimix/manifests/jsrt.json
"""
import sys

from multimix.cli import main

sys.exit(main(["download", "jsrt", *sys.argv[1:]]))
