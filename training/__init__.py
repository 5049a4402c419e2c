"""Training, evaluation and export of recipes."""

# Before ONNX Runtime or OpenVINO are imported: see there.
import service as service
