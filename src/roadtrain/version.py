"""Which roadtrain this is; the package's version is read from here."""

VERSION = "0.1.0"
