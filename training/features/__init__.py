"""Pretrained features of photos and distances to those of good ones: what several methods build on."""
