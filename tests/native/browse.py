"""Prints what is announced as _openclaw-gw._tcp on the local network, a line of JSON per change, until its input ends."""
import json
import sys

from zeroconf import InterfaceChoice, ServiceBrowser, ServiceListener, Zeroconf

TYPE = "_openclaw-gw._tcp.local."


class Printer(ServiceListener):
    def add_service(self, zeroconf, kind, name):
        info = zeroconf.get_service_info(kind, name, 60_000)
        if info is None:
            return
        texts = {key.decode(): (value or b"").decode() for key, value in info.properties.items()}
        self.say({"name": name, "port": info.port, "host": info.server, "addresses": info.parsed_addresses(), "texts": texts})

    update_service = add_service

    def remove_service(self, zeroconf, kind, name):
        self.say({"gone": name})

    @staticmethod
    def say(change):
        print(json.dumps(change), flush=True)


responder = Zeroconf(interfaces=InterfaceChoice.All)
ServiceBrowser(responder, TYPE, Printer())
sys.stdin.read()
responder.close()
