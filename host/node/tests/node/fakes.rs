//! A runtime, an image store and a network that do nothing but remember.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use eyot_node::{BoxError, Keep, Network};
use eyot_runtime::{
    Container, ContainerError, ContainerSpec, Exit, Image, ImageContent, ImageError, ImageStore,
    Left, LogSink, LogStream, PodRef, Runtime, Sandbox, Signal, Usage,
};
use tokio::sync::watch;

/// Images that exist are those that were added.
#[derive(Default)]
pub struct Images(Mutex<BTreeSet<String>>);

impl Images {
    pub fn add(&self, reference: &str) {
        self.0.lock().unwrap().insert(reference.to_owned());
    }
}

#[async_trait]
impl ImageStore for Images {
    async fn resolve(&self, reference: &str) -> Result<Image, ImageError> {
        if !self.0.lock().unwrap().contains(reference) {
            let remedy = "push it".to_owned();
            return Err(ImageError::NotFound {
                reference: reference.to_owned(),
                remedy,
            });
        }
        let digest = "sha256:feed".to_owned();
        let content = ImageContent::Wasm {
            path: PathBuf::new(),
            digest: digest.clone(),
        };
        Ok(Image {
            reference: reference.to_owned(),
            digest,
            content: Arc::new(content),
        })
    }
}

/// Runs nothing: the first argument says what the container would do.
///
/// `serve` until it is asked to end, `exit N` at once, `stubborn` until it is killed.
#[derive(Default)]
pub struct FakeRuntime {
    pub started: Mutex<Vec<String>>,
    pub removed: Arc<Mutex<Vec<String>>>,
    pub recovered: AtomicBool,
    /// What an earlier host left, with what it wrote meanwhile.
    pub left: Mutex<Vec<(Left, &'static str)>>,
}

#[async_trait]
impl Runtime for FakeRuntime {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn needs_netns(&self) -> bool {
        false
    }

    async fn prepare(&self, _: &Image) -> Result<(), ContainerError> {
        Ok(())
    }

    async fn start(&self, spec: ContainerSpec) -> Result<Arc<dyn Container>, ContainerError> {
        assert!(
            self.recovered.load(Ordering::SeqCst),
            "the runtime was not asked what is left first"
        );
        let id = format!("{}-{}-{}", spec.pod.uid, spec.name, spec.attempt);
        self.started.lock().unwrap().push(id.clone());
        spec.log.write(
            LogStream::Stdout,
            format!("attempt {}\n", spec.attempt).as_bytes(),
        );
        // Where the API is found is told to every container.
        assert!(
            spec.env
                .iter()
                .any(|(name, _)| name == "KUBERNETES_SERVICE_HOST")
        );
        let others = spec
            .env
            .iter()
            .filter(|(name, _)| !name.starts_with("KUBERNETES_"));
        for (name, value) in others {
            spec.log
                .write(LogStream::Stdout, format!("{name}={value}\n").as_bytes());
        }
        for mount in &spec.mounts {
            for entry in std::fs::read_dir(&mount.source).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    continue;
                }
                let text = std::fs::read_to_string(&path).unwrap();
                let name = path.file_name().unwrap().to_str().unwrap();
                let line = format!("{}/{name}: {text}\n", mount.target);
                spec.log.write(LogStream::Stdout, line.as_bytes());
            }
        }
        let args: Vec<&str> = spec.args.iter().map(String::as_str).collect();
        let (exit, stubborn) = match args.as_slice() {
            ["exit", code] => (Some(Exit::from_code(code.parse().unwrap())), false),
            ["stubborn"] => (None, true),
            _ => (None, false),
        };
        let (ended, _) = watch::channel(exit);
        Ok(Arc::new(FakeContainer {
            id,
            ended,
            stubborn,
            removed: Arc::clone(&self.removed),
        }))
    }

    async fn recover(&self) -> Result<Vec<Left>, ContainerError> {
        self.recovered.store(true, Ordering::SeqCst);
        let left = self.left.lock().unwrap();
        Ok(left.iter().map(|(left, _)| left.clone()).collect())
    }

    async fn adopt(
        &self,
        left: &Left,
        log: Arc<dyn LogSink>,
    ) -> Result<Arc<dyn Container>, ContainerError> {
        for (one, written) in self.left.lock().unwrap().iter() {
            if one == left {
                log.write_late(LogStream::Stdout, written.as_bytes(), left.started);
            }
        }
        let (ended, _) = watch::channel(None);
        Ok(Arc::new(FakeContainer {
            id: left.id.clone(),
            ended,
            stubborn: false,
            removed: Arc::clone(&self.removed),
        }))
    }
}

struct FakeContainer {
    id: String,
    ended: watch::Sender<Option<Exit>>,
    stubborn: bool,
    removed: Arc<Mutex<Vec<String>>>,
}

#[async_trait]
impl Container for FakeContainer {
    fn id(&self) -> &str {
        &self.id
    }

    async fn wait(&self) -> Exit {
        let mut ended = self.ended.subscribe();
        let exit = ended.wait_for(Option::is_some).await.unwrap();
        exit.clone().unwrap()
    }

    async fn signal(&self, signal: Signal) -> Result<(), ContainerError> {
        match signal {
            Signal::Terminate if self.stubborn => {}
            Signal::Terminate => drop(self.ended.send_replace(Some(Exit::from_code(0)))),
            Signal::Kill => drop(self.ended.send_replace(Some(Exit::from_code(137)))),
        }
        Ok(())
    }

    async fn usage(&self) -> Option<Usage> {
        None
    }

    async fn let_go(&self) -> bool {
        self.id.starts_with("left-")
    }

    async fn remove(&self) -> Result<(), ContainerError> {
        self.ended.send_if_modified(|ended| {
            ended.get_or_insert(Exit::from_code(137));
            true
        });
        self.removed.lock().unwrap().push(self.id.clone());
        Ok(())
    }
}

/// Everybody has the loopback address.
#[derive(Default)]
pub struct FakeNetwork {
    pub attached: Mutex<BTreeSet<String>>,
}

#[async_trait]
impl Network for FakeNetwork {
    async fn attach(&self, pod: &PodRef, netns: bool) -> Result<Sandbox, BoxError> {
        assert!(!netns, "no runtime asked for a namespace");
        self.attached.lock().unwrap().insert(pod.uid.clone());
        let ip = Some(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 9)));
        Ok(Sandbox {
            ip,
            netns: None,
            hostname: String::new(),
        })
    }

    async fn detach(&self, pod: &PodRef) -> Result<(), BoxError> {
        self.attached.lock().unwrap().remove(&pod.uid);
        Ok(())
    }

    async fn sweep(&self) -> Result<(), BoxError> {
        Ok(())
    }

    async fn retain(&self, keep: Keep<'_>) -> Result<(), BoxError> {
        self.attached.lock().unwrap().retain(|uid| keep(uid));
        Ok(())
    }
}
