"""Shenzhen Hospital: tuberculosis screening in China, with lung masks drawn in Kyiv.

python data_download/shenzhen.py [--to DIR]: the same as `multimix download shenzhen`.
Addresses, checksums, licence and citation: ../multimix/manifests/shenzhen.json
"""
import sys

from multimix.cli import main

sys.exit(main(["download", "shenzhen", *sys.argv[1:]]))
