"""DRÆM's idea on pretrained features: distances to normal and a discriminative head, trained on simulated anomalies."""
