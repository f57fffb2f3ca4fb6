"""A wheel carries the embedded data as `mlcourse/_data`; an editable install reads the folder `data/` itself."""

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class EmbedData(BuildHookInterface):
    """Adds `data/` to wheels only: an editable install would get a copy that goes stale."""

    def initialize(self, version, build_data):
        if version == "standard":
            build_data["force_include"]["data"] = "mlcourse/_data"
