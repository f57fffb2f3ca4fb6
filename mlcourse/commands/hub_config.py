"""The configuration of the class room's hub: `jupyterhub -f` reads this file; `mlcourse hub` calls it.

What differs from room to room comes in MLCOURSE_HUB, as JSON: the folder, the class list, address and memory.
"""

import asyncio
import contextlib
import json
import os
import sys
from pathlib import Path

import psutil
from jupyterhub.auth import Authenticator
from jupyterhub.spawner import SimpleLocalProcessSpawner

from mlcourse.classroom import class_list, desks

TOLD = json.loads(os.environ["MLCOURSE_HUB"])
ROOM = desks.Room(Path(TOLD["folder"]), memory=TOLD["memory"])
NAMES = class_list.read(Path(TOLD["students"]))
PASSWORDS = class_list.passwords(NAMES, ROOM.folder / "passwords.csv")
LOOK = 0.5  # seconds between two looks at a desk's memory


class ClassList(Authenticator):
    """Who is on the list comes in, by the password of the list."""

    async def authenticate(self, handler, data):
        name = self.normalize_username(data["username"].strip())
        return name if class_list.right(PASSWORDS, name, data["password"].strip()) else None


class Desk(SimpleLocalProcessSpawner):
    """A student's server inside walls; its memory is watched, since a limit for each process would not add up."""

    async def start(self):
        home = ROOM.home(self.user.name)
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.home_dir = str(home)
        self.cmd = [*desks.walls(home), sys.executable, "-m", desks.SERVER]
        self.environment = desks.environment(home)
        where = await super().start()
        self.watcher = asyncio.ensure_future(self.watch(self.proc))
        return where

    async def watch(self, server) -> None:
        """End the largest process of a desk that takes more than its memory, as long as its server lives."""
        while server.poll() is None:
            large = desks.too_large(server.pid, ROOM.memory)
            if large is not None:
                self.log.warning(
                    "%s took more than %.1f GB: a kernel is ended", self.user.name, ROOM.memory / desks.GIB
                )
                with contextlib.suppress(psutil.Error):
                    large.kill()
            await asyncio.sleep(LOOK)


c = get_config()  # noqa: F821  (JupyterHub puts it there)
c.JupyterHub.bind_url = f"http://{TOLD['ip']}:{TOLD['port']}/"
c.JupyterHub.hub_connect_ip = "127.0.0.1"
c.JupyterHub.hub_port = TOLD["hub_port"]
c.ConfigurableHTTPProxy.command = TOLD["proxy"]
c.ConfigurableHTTPProxy.api_url = f"http://127.0.0.1:{TOLD['api_port']}"
c.ConfigurableHTTPProxy.pid_file = str(ROOM.folder / "proxy.pid")
c.JupyterHub.db_url = f"sqlite:///{ROOM.folder / 'hub.sqlite'}"
c.JupyterHub.cookie_secret_file = str(ROOM.folder / "cookie_secret")
c.JupyterHub.authenticator_class = ClassList
c.JupyterHub.spawner_class = Desk
c.JupyterHub.active_server_limit = TOLD["seats"]
c.JupyterHub.cleanup_servers = True
c.Authenticator.allowed_users = set(NAMES)
c.Authenticator.admin_users = set()
c.Spawner.default_url = "/lab/tree/" + TOLD["first"]
c.Spawner.start_timeout = 120
c.Spawner.http_timeout = 120
c.JupyterHub.load_roles = [
    {"name": "culler", "scopes": ["list:users", "read:users:activity", "read:servers", "delete:servers"],
     "services": ["culler"]}
]  # fmt: skip
c.JupyterHub.services = [
    {"name": "culler", "command": [sys.executable, "-m", "jupyterhub_idle_culler", f"--timeout={TOLD['idle']}"]}
]
