"""An ONVIF camera made of ipycam's parts: camera.py PORT USER PASSWORD.

Its ONVIF services, its movement, its pictures and its answers to probes (UDP port 3702) are the
package's own; only what would encode video is left out.
"""
import sys
import time
from http.server import ThreadingHTTPServer

import numpy
from ipycam.config import CameraConfig
from ipycam.discovery import WSDiscoveryServer
from ipycam.http import IPCameraHTTPHandler
from ipycam.onvif import ONVIFService
from ipycam.ptz import PTZController


class Camera:
    def __init__(self, config):
        self.config = config
        self.ptz = PTZController()
        self.onvif = ONVIFService(config, self.ptz)

    def get_snapshot_frame(self):
        return numpy.full((48, 64, 3), 128, dtype=numpy.uint8)


port, user, password = sys.argv[1:]
config = CameraConfig()
config.name, config.local_ip = "gate", "127.0.0.1"
config.onvif_port = config.web_port = int(port)
config.username, config.password = user, password
camera = Camera(config)
IPCameraHTTPHandler.camera = camera
WSDiscoveryServer(camera.onvif).start()
ThreadingHTTPServer(("127.0.0.1", int(port)), IPCameraHTTPHandler).serve_forever()
