//! Processor time is shared by the requests of containers.

use std::{sync::Arc, time::Duration};

use eyot_runtime::{Container, Limits, Signal};

use crate::support::{Log, end, guest, spec, start};

async fn spinner(image: &eyot_runtime::Image, name: &str, request: u64) -> Arc<dyn Container> {
    let log = Arc::new(Log::default());
    let mut spec = spec(image.clone(), &["spin"], &log);
    spec.name = name.to_owned();
    spec.limits = Limits {
        cpu_request_millis: Some(request),
        ..spec.limits
    };
    let container = start(spec).await;
    log.contains("spinning").await;
    container
}

/// More guests than threads, all of which compute without end: what each gets is what it asked for,
/// in proportion. The window is wide because other tests run at the same time.
#[tokio::test]
async fn spinning_guests_get_time_in_proportion_to_their_requests() {
    let Some(image) = guest("fair", "process") else {
        return;
    };
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let (mut small, mut large) = (Vec::new(), Vec::new());
    for number in 0..threads {
        small.push(spinner(&image, &format!("small-{number}"), 100).await);
        large.push(spinner(&image, &format!("large-{number}"), 400).await);
    }
    let used = async |all: &[Arc<dyn Container>]| {
        let mut sum = Duration::ZERO;
        for one in all {
            sum += one.usage().await.unwrap().cpu;
        }
        sum.as_secs_f64()
    };
    let before = (used(&small).await, used(&large).await);
    // Until enough was computed, however busy the machine is.
    let enough = 3.0 * threads as f64;
    loop {
        let (s, l) = (used(&small).await - before.0, used(&large).await - before.1);
        if s + l > enough {
            let ratio = l / s;
            eprintln!("requests 400m to 100m: {l:.2} s to {s:.2} s, {ratio:.2} to 1");
            assert!((2.5..6.0).contains(&ratio), "{ratio}");
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for one in small.iter().chain(&large) {
        one.signal(Signal::Kill).await.unwrap();
        end(one).await;
    }
}
