"""Hands the facts of settings.ini to setuptools; nothing is stated here that is not stated there."""
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

root = Path(__file__).parent
settings = ConfigParser(delimiters=["="], interpolation=None)
settings.read(root / "settings.ini", encoding="utf-8")
cfg = settings["DEFAULT"]
extras = {name: settings["extras"][name].split() for name in settings["extras"] if name not in settings.defaults()}

setup(
    name=cfg["name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=(root / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=cfg["author"],
    license=cfg["license"],
    url=cfg["url"],
    keywords=cfg["keywords"].split(),
    classifiers=["Programming Language :: Python :: 3", "Intended Audience :: Science/Research", "Natural Language :: English"],
    python_requires=f">={cfg['min_python']}",
    packages=find_packages(include=[cfg["name"], f"{cfg['name']}.*"]),
    package_data={cfg["name"]: ["manifests/*.json", "notebooks/*.ipynb", "published.csv"]},
    install_requires=cfg["requirements"].split(),
    extras_require=extras,
    entry_points={"console_scripts": cfg["console_scripts"].split(), "nbdev": [f"{cfg['name']}={cfg['name']}._modidx:d"]},
    zip_safe=False,
)
