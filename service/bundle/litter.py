"""Files that operating systems, editors and network drives leave in folders. Exactly these are passed over, if no
manifest lists them; whatever else is in a bundle and not in its manifest is refused.
"""

from __future__ import annotations

_FILES = {".DS_Store", "Thumbs.db", "Thumbs.db:encryptable", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini"}
_FILES |= {"Desktop.ini", ".directory", ".localized", ".hidden"}
# `._x` holds a Mac's attributes of x; `.nfs…` is a file that was deleted while somebody had it open.
_PREFIXES = ("._", ".nfs", ".fuse_hidden", ".smbdelete")
_SUFFIXES = (".swp", ".swo", ".swx")
_FOLDERS = {"@eaDir", "@Recycle", "#recycle", "#snapshot", ".snapshot", ".AppleDouble", "__MACOSX", ".Spotlight-V100"}
_FOLDERS |= {".Trashes", ".fseventsd", ".TemporaryItems", "$RECYCLE.BIN", "System Volume Information", "lost+found"}


def is_litter(name: str, *, folder: bool) -> bool:
    """Whether an entry of this name is litter; it may not be a link."""
    if folder:
        return name in _FOLDERS
    return name in _FILES or name.startswith(_PREFIXES) or (name.startswith(".") and name.endswith(_SUFFIXES))
