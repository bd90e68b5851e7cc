"""<< cookiecutter.__description_escaped >>"""

__version__ = "0.1.0"
