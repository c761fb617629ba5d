"""A root filesystem as data: read a tar, edit it, write it deterministically. No root needed.

tree.py has the edits; load.py and tarread.py read archives (expand.py unpacks compressed ones), tarwrite.py writes
them, entry.py says what a name stands for, posix_acl.py brings ACLs to the one form that is kept.
"""

from osbuilder.tree.tree import Summary, Tree, Usage, name_key

__all__ = ["Summary", "Tree", "Usage", "name_key"]
