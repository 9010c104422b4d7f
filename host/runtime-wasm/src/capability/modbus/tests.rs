use super::*;

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

/// From a request for one register, and how many came before it, the frames to send in order.
type Answer = fn(&[u8], usize) -> Vec<Vec<u8>>;

/// A server that answers so.
async fn odd_server(answer: Answer) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let mut count = 0;
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 12];
            while stream.read_exact(&mut request).await.is_ok() {
                for frame in answer(&request, count) {
                    let _ = stream.write_all(&frame).await;
                }
                count += 1;
            }
        }
    });
    address
}

/// The answer of one register that holds `value`, to this request.
fn one_register(request: &[u8], value: u8) -> Vec<u8> {
    let mut frame = request[..8].to_vec();
    frame[5] = 5;
    frame.extend([2, 0, value]);
    frame
}

/// `patience` is what a server that answers gets: only silent ones take it all.
async fn read_one(client: &mut Client, address: &str, patience: u32) -> Result<Vec<u16>, Error> {
    let to = Endpoint {
        address: address.to_owned(),
        unit: 1,
        timeout_ms: patience,
    };
    let answer = client.read_registers(to, Registers::Holding, 7, 1).await;
    answer.unwrap()
}

#[tokio::test]
async fn answers_of_another_unit_transaction_function_or_length_are_garbled() {
    let answers: [Answer; 4] = [
        |request, _| {
            let mut frame = one_register(request, 1);
            frame[6] ^= 1;
            vec![frame]
        },
        |request, _| {
            let mut frame = one_register(request, 1);
            frame[1] ^= 1;
            vec![frame]
        },
        |request, _| {
            let mut frame = one_register(request, 1);
            frame[7] = 4;
            vec![frame]
        },
        |request, _| {
            let mut frame = request[..8].to_vec();
            frame[5] = 7;
            frame.extend([4, 0, 1, 0, 2]);
            vec![frame]
        },
    ];
    for (number, answer) in answers.into_iter().enumerate() {
        let address = odd_server(answer).await;
        let mut client = Client::new(Arc::default(), std::slice::from_ref(&address));
        let outcome = read_one(&mut client, &address, 1000).await;
        assert!(
            matches!(outcome, Err(Error::Garbled(_) | Error::Timeout(_))),
            "{number}: {outcome:?}"
        );
    }
}

#[tokio::test]
async fn an_answer_that_comes_late_is_never_that_of_the_next_request() {
    // The first request is not answered; the second is answered with both.
    let address = odd_server(|request, count| match count {
        0 => Vec::new(),
        _ => {
            let mut late = one_register(request, 1);
            late[..2].copy_from_slice(&[0, 0]);
            vec![one_register(request, 2), late]
        }
    })
    .await;
    let mut client = Client::new(Arc::default(), std::slice::from_ref(&address));
    let silent = read_one(&mut client, &address, 1000).await;
    assert!(matches!(silent, Err(Error::Timeout(_))), "{silent:?}");
    for _ in 0..5 {
        match read_one(&mut client, &address, 30_000).await {
            Ok(words) => assert_eq!(words, [2]),
            Err(error) => assert!(matches!(error, Error::Garbled(_)), "{error:?}"),
        }
    }
}

#[tokio::test]
async fn half_a_frame_is_a_timeout_and_the_next_request_has_a_new_connection() {
    let address = odd_server(|request, count| {
        let whole = one_register(request, 3);
        match count {
            0 => vec![whole[..6].to_vec()],
            _ => vec![whole],
        }
    })
    .await;
    let mut client = Client::new(Arc::default(), std::slice::from_ref(&address));
    let half = read_one(&mut client, &address, 1000).await;
    assert!(matches!(half, Err(Error::Timeout(_))), "{half:?}");
    let whole = read_one(&mut client, &address, 30_000).await;
    assert!(matches!(&whole, Ok(words) if *words == [3]), "{whole:?}");
}
