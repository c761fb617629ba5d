"""A root filesystem as data: read a tar, edit it, write it deterministically. No root needed.

tree.py has the edits, walk.py says where a path leads, pattern.py which names are meant, summary.py what a tree weighs.
load.py and tarread.py read archives (expand.py unpacks compressed ones, number.py and sparse.py know their numbers and
holes), tarwrite.py writes them, folder.py reads a folder. entry.py says what a name stands for, posix_acl.py brings
ACLs to the one form that is kept.
"""

from osbuilder.tree.summary import Summary, Usage
from osbuilder.tree.tree import Tree, name_key

__all__ = ["Summary", "Tree", "Usage", "name_key"]
