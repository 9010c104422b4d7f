//! Bad input at the socket, with and without TLS: every answer is a `Status` with Kubernetes' code and
//! reason, or the right error of the protocol; afterwards the server serves on.

mod bodies;
mod frames;
mod heads;
mod refusals;
mod requests;

use std::sync::Arc;

use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsConnector;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{PATIENCE, admin, kubectl::tls, server};

/// A connection of either sort.
trait Socket: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Socket for T {}

/// A server with both doors open.
struct Doors {
    /// Plain; whoever comes in is the administrator.
    plain: String,
    /// TLS; whoever comes in says who they are.
    secure: String,
    _stop: DropGuard,
}

impl Doors {
    async fn open() -> Doors {
        let server = server().await;
        let stop = CancellationToken::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let plain = listener.local_addr().unwrap().to_string();
        let service = server.as_user(admin());
        tokio::spawn(eyot_http::serve(listener, None, service, stop.clone()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let secure = listener.local_addr().unwrap().to_string();
        let service = server;
        tokio::spawn(eyot_http::serve(
            listener,
            Some(tls().into()),
            service,
            stop.clone(),
        ));
        Doors {
            plain,
            secure,
            _stop: stop.drop_guard(),
        }
    }

    async fn plain(&self) -> TcpStream {
        TcpStream::connect(&self.plain).await.unwrap()
    }

    /// Connections to both doors, and what each is called.
    async fn both(&self) -> Vec<(&'static str, Box<dyn Socket>)> {
        vec![
            ("plain", Box::new(self.plain().await)),
            ("TLS", Box::new(self.secure().await)),
        ]
    }

    async fn secure(&self) -> impl Socket + use<> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Credulous))
            .with_no_client_auth();
        let stream = TcpStream::connect(&self.secure).await.unwrap();
        let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
            .unwrap()
    }

    /// The server still answers others.
    async fn is_well(&self) {
        let mut socket = self.plain().await;
        let answer = talk(
            &mut socket,
            b"GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n",
        )
        .await;
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    }
}

/// Believes any certificate.
#[derive(Debug)]
struct Credulous;

impl rustls::client::danger::ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::ring::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// Send bytes and read until the server hangs up.
async fn talk(socket: &mut (impl Socket + ?Sized), sent: &[u8]) -> String {
    String::from_utf8_lossy(&exchange(socket, sent).await).into_owned()
}

async fn exchange(socket: &mut (impl Socket + ?Sized), sent: &[u8]) -> Vec<u8> {
    let talk = async {
        // A server that has had enough may hang up while it is written to.
        let _ = socket.write_all(sent).await;
        let _ = socket.flush().await;
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer).await;
        answer
    };
    tokio::time::timeout(PATIENCE, talk)
        .await
        .expect("an answer and its end in time")
}

/// Code, reason and message of the `Status` that an HTTP/1 answer carries.
fn status(answer: &str) -> (u16, String, String) {
    let (_, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let status: Value = serde_json::from_str(body).expect(answer);
    assert_eq!(status["kind"], "Status", "{answer}");
    let text = |name: &str| status[name].as_str().unwrap_or_default().to_owned();
    let code = u16::try_from(status["code"].as_u64().unwrap()).unwrap();
    assert!(answer.starts_with(&format!("HTTP/1.1 {code} ")), "{answer}");
    (code, text("reason"), text("message"))
}
