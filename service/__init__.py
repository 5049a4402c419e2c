"""The service. Whatever imports a part of it has first told the runtimes to keep to themselves.

ONNX Runtime sends events to its maker and keeps a device id in the home folder, unless its variable is set before it is
imported. OpenVINO does so at import, through a package of its own that it can do without. A station tells nobody
anything: neither is left to how it is started.
"""

import os
import sys

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
# Importing it fails from now on, and OpenVINO takes its own stub.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
