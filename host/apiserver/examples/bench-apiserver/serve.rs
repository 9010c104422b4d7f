//! The server in a process of its own, so that its memory and processor time can be told from the
//! clients'.

use std::{
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
};

use eyot_apiserver::{ApiServer, Options};
use eyot_store::Store;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tokio_util::sync::CancellationToken;

use crate::{measure::Error, wire};

/// A server that ends when this is dropped.
pub struct Process {
    child: Child,
    pub server: wire::Server,
}

impl Drop for Process {
    fn drop(&mut self) {
        // Closing its input ends it; what it writes last is not waited for.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

impl Process {
    pub fn start(dir: &Path) -> Result<Process, Error> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("serve")
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let out = child.stdout.take().ok_or("no output")?;
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line)?;
        let address: SocketAddr = line.trim().parse()?;
        let read = |name: &str| std::fs::read(dir.join(name));
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&read("ca.pem")?)?)?;
        let certificate = CertificateDer::from_pem_slice(&read("client.pem")?)?;
        let key = PrivateKeyDer::from_pem_slice(&read("client.key")?)?;
        let tls = rustls::ClientConfig::builder()
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![certificate], key)?;
        let server = wire::Server {
            address,
            tls: Arc::new(tls),
        };
        Ok(Process { child, server })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

/// Serve what is in `dir` until the input ends.
pub async fn serve(dir: &Path) -> Result<(), Error> {
    let store = Store::open(&dir.join("bench.db"), eyot_apiserver::extract).await?;
    let server = ApiServer::new(store.clone(), Options::default()).await?;
    let tls = certificates(dir)?;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    writeln!(std::io::stdout(), "{}", listener.local_addr()?)?;
    let stop = CancellationToken::new();
    let ended = stop.clone();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_line(&mut String::new());
        ended.cancel();
    });
    eyot_http::serve(listener, Some(Arc::new(tls).into()), server, stop).await;
    store.close().await;
    Ok(())
}

/// An authority, a certificate for the server, and one for a client who may do everything.
fn certificates(dir: &Path) -> Result<rustls::ServerConfig, Error> {
    let ca_key = KeyPair::generate()?;
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_certificate = ca.self_signed(&ca_key)?;
    let issuer = Issuer::new(ca, ca_key);
    let leaf = |name: &str, group: &str, usage| -> Result<(String, KeyPair), Error> {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()])?;
        params.distinguished_name.push(DnType::CommonName, name);
        params
            .distinguished_name
            .push(DnType::OrganizationName, group);
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate()?;
        Ok((params.signed_by(&key, &issuer)?.pem(), key))
    };
    let (server, server_key) = leaf("server", "", ExtendedKeyUsagePurpose::ServerAuth)?;
    let usage = ExtendedKeyUsagePurpose::ClientAuth;
    let (client, client_key) = leaf("bench", "system:masters", usage)?;
    std::fs::write(dir.join("ca.pem"), ca_certificate.pem())?;
    std::fs::write(dir.join("client.pem"), client)?;
    std::fs::write(dir.join("client.key"), client_key.serialize_pem())?;
    let mut roots = RootCertStore::empty();
    roots.add(ca_certificate.der().clone())?;
    let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build()?;
    let certificate = CertificateDer::from_pem_slice(server.as_bytes())?;
    let key = PrivateKeyDer::from_pem_slice(server_key.serialize_pem().as_bytes())?;
    Ok(rustls::ServerConfig::builder()
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![certificate], key)?)
}
