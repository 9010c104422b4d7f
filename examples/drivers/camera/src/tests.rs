use eyot_sdk::{
    Protocol,
    http::{Response, Scripted},
    publisher,
};

use super::*;

const PLAIN: &str = r#"{"Address":"10.0.0.7","Port":"8080"}"#;
const SECRET: &str = r#"{"Address":"10.0.0.7","Credentials":{"username":"u","password":"p"}}"#;

fn camera(properties: &str, answers: &[&str]) -> Result<Onvif<Scripted>, Error> {
    let protocol = Protocol {
        name: PROTOCOL.into(),
        properties: properties.into(),
    };
    let device = Device {
        name: "c".into(),
        profile: "p".into(),
        protocols: vec![protocol],
    };
    let answers = answers.iter().map(|body| Ok(soap(200, body)));
    let client = Scripted {
        answers: answers.collect(),
        requests: Vec::new(),
    };
    Onvif::with_client(&device, client)
}

fn soap(status: u16, body: &str) -> Response {
    let text =
        format!("<e:Envelope xmlns:e='urn:e' xmlns:t='urn:t'><e:Body>{body}</e:Body></e:Envelope>");
    Response::new(status, "application/soap+xml", text)
}

/// What a camera says of its clock and its services.
const CLOCK: &str = "<t:R><t:UTCDateTime><t:Time><t:Hour>1</t:Hour><t:Minute>2</t:Minute>\
    <t:Second>3</t:Second></t:Time><t:Date><t:Year>2001</t:Year><t:Month>2</t:Month><t:Day>3</t:Day>\
    </t:Date></t:UTCDateTime></t:R>";
const SERVICES: &str = "<t:R><t:Service><t:Namespace>http://www.onvif.org/ver10/media/wsdl</t:Namespace>\
    <t:XAddr>http://192.168.1.1/onvif/media</t:XAddr></t:Service><t:Service>\
    <t:Namespace>http://www.onvif.org/ver20/ptz/wsdl</t:Namespace><t:XAddr>http://192.168.1.1/ptz</t:XAddr>\
    </t:Service><t:Service><t:Namespace>http://www.onvif.org/ver10/events/wsdl</t:Namespace>\
    <t:XAddr>http://192.168.1.1/events</t:XAddr></t:Service></t:R>";
const PROFILES: &str = "<t:R><t:Profiles token='first'><t:Name>Main</t:Name></t:Profiles></t:R>";

fn attributes(json: &str) -> Attributes {
    serde_json::from_str(json).unwrap()
}

fn get(
    camera: &mut Onvif<Scripted>,
    of: ValueType,
    service: &str,
    function: &str,
    query: &str,
) -> Result<Value, Error> {
    let attributes = Attributes {
        service: service.into(),
        get_function: function.into(),
        url_raw_query: query.into(),
        ..Attributes::default()
    };
    camera.get(&ReadRequest {
        resource: "R",
        value_type: of,
        attributes: &attributes,
    })
}

fn body(camera: &Onvif<Scripted>, at: usize) -> (String, String) {
    let request = &camera.camera.caller.client.requests[at];
    let text = String::from_utf8(request.body.clone()).unwrap();
    (request.url.clone(), text)
}

#[test]
fn a_function_is_called_at_the_service_that_has_it_with_the_first_profile() {
    let answer = "<t:R><t:MediaUri><t:Uri>rtsp://x/1</t:Uri></t:MediaUri></t:R>";
    let mut onvif = camera(PLAIN, &[CLOCK, SERVICES, PROFILES, answer, answer]).unwrap();
    let uri = get(&mut onvif, ValueType::Object, "Media", "GetStreamUri", "");
    assert_eq!(
        uri,
        Ok(Value::Object(r#"{"MediaUri":{"Uri":"rtsp://x/1"}}"#.into()))
    );
    let (url, text) = body(&onvif, 3);
    assert_eq!(
        url, "http://10.0.0.7:8080/onvif/media",
        "where it can be reached"
    );
    assert!(
        text.contains("<s:GetStreamUri><s:StreamSetup><tt:Stream>RTP-Unicast"),
        "{text}"
    );
    assert!(
        text.contains("<s:ProfileToken>first</s:ProfileToken></s:GetStreamUri>"),
        "{text}"
    );
    assert!(!text.contains("Security"), "nobody logs in");

    // {"ProfileToken":"second"} in base 64, as EdgeX's clients send it.
    let query = "jsonObject=eyJQcm9maWxlVG9rZW4iOiJzZWNvbmQifQ%3D%3D";
    get(
        &mut onvif,
        ValueType::Object,
        "Media",
        "GetStreamUri",
        query,
    )
    .unwrap();
    assert!(body(&onvif, 4).1.contains("<s:ProfileToken>second<"));
    let error = get(
        &mut onvif,
        ValueType::Object,
        "Media",
        "GetStreamUri",
        "jsonObject=x",
    );
    assert!(matches!(error, Err(Error::Invalid(_))), "{error:?}");
    let error = get(
        &mut onvif,
        ValueType::Object,
        "Imaging",
        "GetImagingSettings",
        "",
    );
    assert!(
        matches!(&error, Err(Error::Protocol(e)) if e.code == 404),
        "{error:?}"
    );
}

#[test]
fn a_token_is_made_for_the_cameras_own_clock() {
    let mut onvif = camera(SECRET, &[CLOCK, SERVICES, PROFILES]).unwrap();
    get(&mut onvif, ValueType::Object, "Media", "GetProfiles", "").unwrap();
    assert!(
        !body(&onvif, 0).1.contains("Security"),
        "the clock is everybody's"
    );
    let (_, text) = body(&onvif, 2);
    assert!(text.contains("<w:Username>u</w:Username>"), "{text}");
    assert!(text.contains("<u:Created>2001-02-03T01:0"), "{text}");
}

#[test]
fn a_digest_is_given_when_it_is_asked_for_and_once() {
    let mut onvif = camera(SECRET, &[CLOCK, SERVICES]).unwrap();
    let mut challenge = Response::new(401, "text/plain", "");
    let header = "Digest realm=\"r\", nonce=\"n\", qop=\"auth\"";
    challenge
        .headers
        .push(("www-authenticate".into(), header.into()));
    let client = &mut onvif.camera.caller.client;
    client.answers.push_back(Ok(challenge.clone()));
    client.answers.push_back(Ok(soap(200, PROFILES)));
    client.answers.push_back(Ok(challenge));
    get(&mut onvif, ValueType::Object, "Media", "GetProfiles", "").unwrap();
    let proof = |onvif: &Onvif<Scripted>, at: usize| {
        let headers = &onvif.camera.caller.client.requests[at].headers;
        let found = headers.iter().find(|(name, _)| name == "authorization");
        found.map(|(_, value)| value.clone()).unwrap_or_default()
    };
    assert_eq!(proof(&onvif, 2), "");
    assert!(
        proof(&onvif, 3).contains("uri=\"/onvif/media\"")
            && proof(&onvif, 3).contains("nc=00000001")
    );
    // The same again: the password is wrong, and is not tried for ever.
    let error = get(&mut onvif, ValueType::Object, "Media", "GetProfiles", "");
    assert!(
        matches!(&error, Err(Error::Protocol(e)) if e.code == 401),
        "{error:?}"
    );
    assert!(proof(&onvif, 4).contains("nc=00000002"));
    assert_eq!(onvif.camera.caller.client.requests.len(), 5);
}

#[test]
fn a_picture_is_fetched_from_where_the_camera_says() {
    let uri =
        "<t:R><t:MediaUri><t:Uri>http://192.168.1.1:81/snap?a=1&amp;b=2</t:Uri></t:MediaUri></t:R>";
    let mut onvif = camera(PLAIN, &[CLOCK, SERVICES, PROFILES, uri]).unwrap();
    let picture = Response::new(200, "image/jpeg", vec![0xff, 0xd8]);
    onvif.camera.caller.client.answers.push_back(Ok(picture));
    let value = get(&mut onvif, ValueType::Binary, "EdgeX", "GetSnapshot", "").unwrap();
    let expected = Binary {
        data: vec![0xff, 0xd8],
        media_type: "image/jpeg".into(),
    };
    assert_eq!(value, Value::Binary(expected));
    assert_eq!(body(&onvif, 4).0, "http://10.0.0.7:81/snap?a=1&b=2");
}

#[test]
fn a_command_is_a_function_with_its_value() {
    let mut onvif = camera(PLAIN, &[CLOCK, SERVICES, "<t:R/>"]).unwrap();
    let attributes = attributes(r#"{"service":"PTZ","setFunction":"AbsoluteMove"}"#);
    let value = r#"{"ProfileToken":"a","Position":{"Zoom":{"X":1}}}"#;
    onvif
        .write(&[WriteRequest {
            resource: "AbsoluteMove",
            value: &Value::Object(value.into()),
            attributes: &attributes,
        }])
        .unwrap();
    let (url, text) = body(&onvif, 2);
    assert_eq!(url, "http://10.0.0.7:8080/ptz");
    let expected =
        "<s:AbsoluteMove><s:ProfileToken>a</s:ProfileToken><s:Position><tt:Zoom x=\"1\">";
    assert!(text.contains(expected), "{text}");
}

#[test]
fn events_are_pulled_published_and_asked_for_again_when_the_camera_forgot() {
    let properties = r#"{"Address":"10.0.0.7","Events":"true"}"#;
    let subscribed = "<t:R><t:SubscriptionReference><t:Address>http://192.168.1.1/pull/7</t:Address>\
        </t:SubscriptionReference></t:R>";
    let event = "<t:R><t:NotificationMessage><t:Topic>tns1:Motion</t:Topic><t:Message>\
        <t:Message UtcTime='2001-02-03T00:00:00Z' PropertyOperation='Changed'><t:Source>\
        <t:SimpleItem Name='Lens' Value='1'/></t:Source><t:Data><t:SimpleItem Name='On' Value='true'/>\
        </t:Data></t:Message></t:Message></t:NotificationMessage></t:R>";
    let mut onvif = camera(properties, &[CLOCK, SERVICES, subscribed, event]).unwrap();
    let resource = Resource {
        name: "Event".to_owned(),
        value_type: ValueType::Object,
        attributes: attributes(r#"{"service":"EdgeX","getFunction":"CameraEvent"}"#),
    };
    onvif.subscribe(vec![resource]).unwrap();
    assert_eq!(onvif.poll(), Ok(Some(PULL)));
    assert_eq!(body(&onvif, 3).0, "http://10.0.0.7:80/pull/7");
    let published = publisher::take();
    let Value::Object(text) = &published[0].1[0].value else {
        panic!("{published:?}")
    };
    let json: Json = serde_json::from_str(text).unwrap();
    assert_eq!(
        (&json["Topic"], &json["Source"]["Lens"]),
        (&"tns1:Motion".into(), &"1".into())
    );
    assert_eq!(json["Data"]["On"], "true");

    let client = &mut onvif.camera.caller.client;
    let fault = "<e:Fault><e:Reason><e:Text>no such subscription</e:Text></e:Reason></e:Fault>";
    client.answers.push_back(Ok(soap(400, fault)));
    client.answers.push_back(Ok(soap(200, subscribed)));
    assert_eq!(onvif.poll(), Ok(Some(PULL)));
    assert!(onvif.camera.is_subscribed());
    assert!(body(&onvif, 5).1.contains("CreatePullPointSubscription"));
}

#[test]
fn a_device_is_opened_by_its_properties() {
    for (properties, field) in [
        ("{}", "Address"),
        (r#"{"Address":"a/b"}"#, "Address"),
        (r#"{"Address":"h","Port":"x"}"#, "Port"),
        (r#"{"Address":"h","Timeout":60}"#, "Timeout"),
        (
            r#"{"Address":"h","Credentials":{"username":"u","mode":"magic"}}"#,
            "Credentials.mode",
        ),
    ] {
        let Err(Error::Invalid(invalid)) = camera(properties, &[]) else {
            panic!("{properties}")
        };
        assert_eq!(invalid.field, format!("protocols.Onvif.{field}"));
    }
}
