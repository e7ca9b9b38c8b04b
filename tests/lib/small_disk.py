"""A small disk: a tmpfs in a mount namespace of its own, which only what is started in it can see.

The namespace and the disk are gone with their last process, so that nothing is left behind, whoever was killed.
"""

import contextlib
import errno
import os
import pwd
import subprocess

from . import common

MOUNT = 'mount -t tmpfs -o size="$2",uid="$3",gid="$4",mode=700 tmpfs "$1" && echo mounted && exec cat'


class SmallDisk:
    """`path` is the disk, in the namespace; `user` is who owns it and whose programs see it.

    Raises PermissionError where mounts are not allowed.
    """

    def __init__(self, size, user):
        self.path = common.scratch_dir("disk")
        self.owner = pwd.getpwnam(user) if user else pwd.getpwuid(os.getuid())
        # Ends when this process does, with its standard input.
        self.holder = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", MOUNT, "sh", str(self.path),
             size, str(self.owner.pw_uid), str(self.owner.pw_gid)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd="/")
        line = self.holder.stdout.readline()
        if line != "mounted\n":
            self.close()
            raise PermissionError(f"no disk of its own: {line.strip()}")

    def entering(self, command):
        """The command line that runs `command` in the namespace as the disk's owner, in the same process."""
        return ["nsenter", f"--mount=/proc/{self.holder.pid}/ns/mnt", "--no-fork",
                f"--setuid={self.owner.pw_uid}", f"--setgid={self.owner.pw_gid}", "--", *command]

    @property
    def filler(self):
        return f"/proc/{self.holder.pid}/root{self.path}/filler"

    def fill(self):
        """To the last block."""
        with open(self.filler, "wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(1 << 16))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise

    def free(self):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.filler)

    def close(self):
        self.holder.communicate()
