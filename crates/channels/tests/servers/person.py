"""A person's mail program, by Python's own libraries: `send` takes a mail as JSON, `read` prints the mailbox."""
import email.policy, imaplib, json, smtplib, ssl, sys
from email.message import EmailMessage
from email.parser import BytesParser

ask = json.load(sys.stdin)
context = ssl.create_default_context(cafile=ask["ca"])
who = ask["who"]
if ask["do"] == "send":
    mail = EmailMessage()
    mail["From"] = ask.get("from", who)
    mail["To"] = ask["to"]
    for name, value in ask["headers"].items():
        mail[name] = value
    mail.set_content(ask["text"])
    if "html" in ask:
        mail.add_alternative(ask["html"], subtype="html")
    for file in ask.get("files", []):
        mail.add_attachment(bytes.fromhex(file["hex"]), maintype="application", subtype="x-test", filename=file["name"])
    with smtplib.SMTP_SSL("localhost", ask["smtp"], context=context) as smtp:
        smtp.login(who, "secret")
        smtp.send_message(mail, from_addr=ask.get("envelope", who), to_addrs=[ask["to"]])
    print("{}")
else:
    found = []
    with imaplib.IMAP4_SSL("localhost", ask["imap"], ssl_context=context) as imap:
        imap.login(who, "secret")
        imap.select("INBOX", readonly=True)
        for number in imap.search(None, "ALL")[1][0].split():
            raw = imap.fetch(number, "(BODY.PEEK[])")[1][0][1]
            mail = BytesParser(policy=email.policy.default).parsebytes(raw)
            part = lambda kind: (mail.get_body([kind]).get_content() if mail.get_body([kind]) else None)
            found.append({
                "headers": {name.lower(): str(value) for name, value in mail.items()},
                "text": part("plain"), "html": part("html"),
                "files": [{"name": a.get_filename(), "hex": a.get_content().hex() if isinstance(a.get_content(), bytes) else a.get_content().encode().hex()} for a in mail.iter_attachments()],
            })
    print(json.dumps(found))
