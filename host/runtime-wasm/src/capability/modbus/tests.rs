use super::*;

#[test]
fn addresses_have_one_spelling() {
    assert_eq!(canonical(" PLC.Example:502 ").unwrap(), "plc.example:502");
    assert_eq!(canonical("[0:0::1]:502").unwrap(), "[::1]:502");
    for bad in [
        "",
        "plc",
        "plc:",
        "plc:0",
        "plc:99999",
        ":502",
        "a b:1",
        "::1:502",
        "[x]:1",
        "u@h:1",
    ] {
        assert!(canonical(bad).unwrap_err().contains("HOST:PORT"), "{bad}");
    }
}

#[tokio::test]
async fn counts_outside_the_protocol_are_refused_before_anything_is_sent() {
    let mut client = Client::new(Arc::default(), &["127.0.0.1:1".into()]);
    let to = || Endpoint {
        address: "127.0.0.1:1".into(),
        unit: 1,
        timeout_ms: 100,
    };
    for count in [0, 126] {
        let error = client
            .read_registers(to(), Registers::Input, 0, count)
            .await
            .unwrap();
        assert!(matches!(error, Err(Error::BadEndpoint(_))));
    }
    let error = client.write_coils(to(), 0, Vec::new()).await.unwrap();
    assert!(matches!(error, Err(Error::BadEndpoint(_))));
}

#[tokio::test]
async fn clients_of_one_address_share_a_server_and_the_last_one_closes_it() {
    let pool = Arc::new(Pool::default());
    let granted = ["h:1".to_owned()];
    let mut first = Client::new(pool.clone(), &granted);
    let mut second = Client::new(pool.clone(), &granted);
    let server = first.server("H:1").unwrap();
    assert!(Arc::ptr_eq(&server, &second.server("h:1").unwrap()));
    let weak = Arc::downgrade(&server);
    drop((server, first, second));
    assert_eq!(weak.strong_count(), 0);
}
