"""What runs at a desk of the class room: the student's copies are made, then JupyterLab starts for the hub.

It is started by the hub inside walls (`mlcourse.classroom.desks`): `python -m mlcourse.commands.desk`.
"""

import os
import sys

from mlcourse import places
from mlcourse.commands import lab
from mlcourse.teaching import saved_widgets


def main() -> None:
    """Prepare the work folder, then become the student's server; JupyterHub says the rest by the environment."""
    work = places.work()
    lab.prepare(places.notebooks(), work)
    lab.use_settings(work)
    os.chdir(work)
    from jupyterhub.singleuser import main as serve

    settings = {
        "ServerApp.root_dir": work,
        "LabApp.workspaces_dir": work / lab.OWN / "workspaces",
        # Kernels speak through files. By TCP other desks could listen, since all share the network.
        "KernelManager.transport": "ipc",
        "ContentsManager.pre_save_hook": f"{saved_widgets.__name__}.{saved_widgets.before_saving.__name__}",
    }
    sys.argv = ["jupyterhub-singleuser", *(f"--{name}={value}" for name, value in settings.items())]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        sys.argv.append("--allow-root")
    serve()


if __name__ == "__main__":
    main()
