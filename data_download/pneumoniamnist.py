"""Kermany's images as squares of 28, 64, 128 or 224 pixels (MedMNIST).

python data_download/pneumoniamnist.py [--to DIR] [--size 28|64|128|224]: the same as `multimix download pneumoniamnist`.
Addresses, checksums, licence and citation: ../multimix/manifests/pneumoniamnist.json
"""
import sys

from multimix.cli import main

sys.exit(main(["download", "pneumoniamnist", *sys.argv[1:]]))
