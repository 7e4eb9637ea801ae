"""A file or a folder of your own on Google Drive, shared with "anyone with the link".

python data_download/drive.py ADDRESS [--to DIR]: the same as `multimix download ADDRESS`. A single ZIP or TAR is unpacked.
"""
import sys

from multimix.cli import main

sys.exit(main(["download", *sys.argv[1:]]))
