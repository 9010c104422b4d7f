use std::time::Duration;

use super::*;

fn client(pool: &Arc<Pool>, ports: &[u16], places: &[&str]) -> Client {
    let places: Vec<String> = places.iter().map(|place| (*place).to_owned()).collect();
    Client::new(pool.clone(), ports, &places, Arc::default())
}

/// A port that nobody uses now.
async fn free_port() -> u16 {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.local_addr().unwrap().port()
}

async fn heard(client: &mut Client) -> Vec<Datagram> {
    let coming = client.alarm.clone();
    let waiting = tokio::time::timeout(Duration::from_secs(30), coming.notified());
    waiting.await.unwrap();
    client.take().await.unwrap().unwrap()
}

#[tokio::test]
async fn each_instance_hears_its_own_device_and_nobody_else() {
    let (pool, port) = (Arc::new(Pool::default()), free_port().await);
    let mut near = client(&pool, &[port], &["127.0.0.1:161"]);
    let mut same = client(&pool, &[port], &["localhost:1"]);
    let mut far = client(&pool, &[port], &["10.0.0.7:161"]);
    for client in [&mut near, &mut same, &mut far] {
        client.listen(port).await.unwrap().unwrap();
        client.listen(port).await.unwrap().unwrap();
    }
    let device = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    device.send_to(b"trap", ("127.0.0.1", port)).await.unwrap();
    let own = device.local_addr().unwrap().to_string();
    for client in [&mut near, &mut same] {
        let all = heard(client).await;
        assert_eq!(all.len(), 1);
        assert_eq!(
            (all[0].sender.as_str(), all[0].data.as_slice()),
            (own.as_str(), &b"trap"[..])
        );
    }
    assert!(far.take().await.unwrap().unwrap().is_empty());

    // It is answered from where it was heard.
    near.answer(port, own.clone(), b"yes".to_vec())
        .await
        .unwrap()
        .unwrap();
    let mut answer = [0; 8];
    let (length, from) = device.recv_from(&mut answer).await.unwrap();
    assert_eq!((&answer[..length], from.port()), (&b"yes"[..], port));
    let denied = far.answer(port, own, Vec::new()).await.unwrap();
    assert!(matches!(denied, Err(Error::Denied(_))));

    drop((near, same, far));
    let given_back = async {
        while std::net::UdpSocket::bind(("127.0.0.1", port)).is_err() {
            tokio::task::yield_now().await;
        }
    };
    let waiting = tokio::time::timeout(Duration::from_secs(30), given_back);
    waiting.await.expect("the port is given back");
}

#[tokio::test]
async fn ports_are_granted_and_what_is_taken_says_so() {
    let pool = Arc::new(Pool::default());
    let taken = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let mut client = client(&pool, &[port], &["127.0.0.1:161"]);
    let denied = client.listen(port ^ 1).await.unwrap();
    assert!(matches!(&denied, Err(Error::Denied(text)) if text.contains("listen")));
    let used = client.listen(port).await.unwrap();
    assert!(matches!(used, Err(Error::Unavailable(_))));
}

#[test]
fn an_inbox_holds_so_many_and_the_oldest_go_first() {
    let from: SocketAddr = "127.0.0.1:1".parse().unwrap();
    let inbox = Inbox {
        hosts: vec![from.ip()],
        alarm: Arc::default(),
        waiting: Mutex::default(),
    };
    for number in 0..DATAGRAMS + 5 {
        inbox.put(from, &number.to_be_bytes());
    }
    assert_eq!(lock(&inbox.waiting).len(), DATAGRAMS);
    assert_eq!(lock(&inbox.waiting)[0].1, 5_usize.to_be_bytes());
    for _ in 0..40 {
        inbox.put(from, &[0; LARGEST]);
    }
    let bytes: usize = lock(&inbox.waiting)
        .iter()
        .map(|(_, data)| data.len())
        .sum();
    assert!(bytes <= BYTES);
}
