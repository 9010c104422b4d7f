"""An ONVIF camera that has events, and asks for HTTP digest: events.py PORT USER PASSWORD.

No package has that half of a camera, so it was written for the tests, after the ONVIF event service
WSDL (http://www.onvif.org/ver10/events/wsdl) and WS-BaseNotification. It has one event each time that
it is asked, and forgets its subscription when it is told to (GET /forget).
"""
import hashlib
import re
import sys
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

port, user, password = sys.argv[1:]
realm, nonce = "camera", uuid.uuid4().hex
subscriptions, counts = set(), {"events": 0}

ENVELOPE = (
    '<?xml version="1.0"?><env:Envelope xmlns:env="http://www.w3.org/2003/05/soap-envelope" '
    'xmlns:tds="http://www.onvif.org/ver10/device/wsdl" xmlns:tev="http://www.onvif.org/ver10/events/wsdl" '
    'xmlns:tt="http://www.onvif.org/ver10/schema" xmlns:wsnt="http://docs.oasis-open.org/wsn/b-2" '
    'xmlns:wsa="http://www.w3.org/2005/08/addressing"><env:Body>{}</env:Body></env:Envelope>'
)
FAULT = (
    "<env:Fault><env:Code><env:Value>env:Sender</env:Value></env:Code>"
    '<env:Reason><env:Text xml:lang="en">{}</env:Text></env:Reason></env:Fault>'
)


def md5(text):
    return hashlib.md5(text.encode()).hexdigest()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def reply(self, status, body, headers=()):
        data = body.encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/soap+xml; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def is_proved(self):
        header = self.headers.get("Authorization", "")
        fields = dict(re.findall(r'(\w+)="?([^",]+)"?', header))
        if not header.startswith("Digest") or fields.get("nonce") != nonce:
            return False
        who = md5(f"{user}:{realm}:{password}")
        what = md5(f"{self.command}:{self.path}")
        proof = md5(f"{who}:{nonce}:{fields['nc']}:{fields['cnonce']}:auth:{what}")
        return fields["username"] == user and fields["response"] == proof

    def do_GET(self):
        subscriptions.clear()
        self.reply(200, "")

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        action = re.search(r"<e:Body><s:(\w+)", body).group(1)
        if action != "GetSystemDateAndTime" and not self.is_proved():
            challenge = f'Digest realm="{realm}", qop="auth", nonce="{nonce}", algorithm=MD5'
            self.reply(401, "", [("WWW-Authenticate", challenge)])
            return
        answer = getattr(self, action, None)
        if answer is None:
            self.reply(500, ENVELOPE.format(FAULT.format("no such function")))
            return
        self.reply(*answer(body))

    def GetSystemDateAndTime(self, _):
        return 200, ENVELOPE.format(
            "<tds:GetSystemDateAndTimeResponse><tds:SystemDateAndTime><tt:UTCDateTime><tt:Time>"
            "<tt:Hour>12</tt:Hour><tt:Minute>0</tt:Minute><tt:Second>0</tt:Second></tt:Time><tt:Date>"
            "<tt:Year>2001</tt:Year><tt:Month>2</tt:Month><tt:Day>3</tt:Day></tt:Date></tt:UTCDateTime>"
            "</tds:SystemDateAndTime></tds:GetSystemDateAndTimeResponse>"
        )

    def GetServices(self, _):
        # The address is one that only the camera knows.
        return 200, ENVELOPE.format(
            "<tds:GetServicesResponse><tds:Service>"
            "<tds:Namespace>http://www.onvif.org/ver10/events/wsdl</tds:Namespace>"
            "<tds:XAddr>http://192.0.2.1/onvif/events</tds:XAddr></tds:Service></tds:GetServicesResponse>"
        )

    def CreatePullPointSubscription(self, _):
        name = uuid.uuid4().hex
        subscriptions.add(name)
        return 200, ENVELOPE.format(
            "<tev:CreatePullPointSubscriptionResponse><tev:SubscriptionReference>"
            f"<wsa:Address>http://192.0.2.1/onvif/pull/{name}</wsa:Address></tev:SubscriptionReference>"
            "<wsnt:CurrentTime>2001-02-03T12:00:00Z</wsnt:CurrentTime>"
            "<wsnt:TerminationTime>2001-02-03T12:10:00Z</wsnt:TerminationTime>"
            "</tev:CreatePullPointSubscriptionResponse>"
        )

    def PullMessages(self, _):
        if self.path.rsplit("/", 1)[-1] not in subscriptions:
            return 400, ENVELOPE.format(FAULT.format("no such subscription"))
        counts["events"] += 1
        return 200, ENVELOPE.format(
            "<tev:PullMessagesResponse><tev:CurrentTime>2001-02-03T12:00:01Z</tev:CurrentTime>"
            "<tev:TerminationTime>2001-02-03T12:10:00Z</tev:TerminationTime><wsnt:NotificationMessage>"
            "<wsnt:Topic>tns1:VideoSource/MotionAlarm</wsnt:Topic><wsnt:Message>"
            '<tt:Message UtcTime="2001-02-03T12:00:01Z" PropertyOperation="Changed"><tt:Source>'
            '<tt:SimpleItem Name="Source" Value="lens"/></tt:Source><tt:Data>'
            f'<tt:SimpleItem Name="State" Value="{counts["events"]}"/></tt:Data></tt:Message>'
            "</wsnt:Message></wsnt:NotificationMessage></tev:PullMessagesResponse>"
        )

    def Unsubscribe(self, _):
        return 200, ENVELOPE.format("<wsnt:UnsubscribeResponse/>")


ThreadingHTTPServer(("127.0.0.1", int(port)), Handler).serve_forever()
