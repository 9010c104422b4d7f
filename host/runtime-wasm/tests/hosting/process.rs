//! Processes.

use std::{sync::Arc, time::Duration};

use eyot_runtime::{ContainerError, Mount, Runtime, Signal};

use crate::support::{Log, end, guest, runtime, spec, start};

#[tokio::test]
async fn a_process_sees_its_arguments_and_environment_and_a_closed_stdin() {
    let Some(image) = guest("process", "process") else {
        return;
    };
    let log = Arc::new(Log::default());
    let mut spec = spec(image, &["show", "a b", "c"], &log);
    spec.env = vec![("GREETING".into(), "hello".into())];
    let exit = end(&start(spec).await).await;
    assert_eq!((exit.code, exit.reason), (0, "Completed"));
    assert_eq!(
        log.text(),
        "args [\"a b\", \"c\"]\nenv [(\"GREETING\", \"hello\")]\nstdin Ok(0)\n! to stderr\n"
    );
}

#[tokio::test]
async fn a_command_replaces_the_name_of_the_program() {
    let Some(image) = guest("process", "process") else {
        return;
    };
    let log = Arc::new(Log::default());
    let mut spec = spec(image, &["x"], &log);
    spec.command = vec!["anything".into(), "show".into()];
    end(&start(spec).await).await;
    log.contains("args [\"x\"]").await;
}

#[tokio::test]
async fn the_exit_code_and_the_last_unfinished_line_arrive() {
    let Some(image) = guest("process", "process") else {
        return;
    };
    let log = Arc::new(Log::default());
    let exit = end(&start(spec(image.clone(), &["exit", "7"], &log)).await).await;
    // The stable `wasi:cli/exit` of WASI 0.2 tells only success from failure.
    assert_eq!((exit.code, exit.reason), (1, "Error"));
    end(&start(spec(image, &["unfinished"], &log)).await).await;
    assert_eq!(log.text(), "no newline");
}

#[tokio::test]
async fn a_trap_is_134_with_the_stack_and_touches_nothing_else() {
    let Some(image) = guest("process", "process") else {
        return;
    };
    let log = Arc::new(Log::default());
    let other = start(spec(image.clone(), &["sleep"], &log)).await;
    log.contains("sleeping").await;
    let exit = end(&start(spec(image, &["panic"], &log)).await).await;
    assert_eq!((exit.code, exit.reason), (134, "Error"));
    assert!(exit.message.contains("unreachable"), "{}", exit.message);
    assert!(exit.message.contains("wasm backtrace"), "{}", exit.message);
    log.contains("as told").await;
    assert!(other.usage().await.is_some());
    other.signal(Signal::Kill).await.unwrap();
    assert_eq!(end(&other).await.code, 137);
}

#[tokio::test]
async fn a_loop_without_end_yields_and_ends_by_signal() {
    let Some(image) = guest("process", "process") else {
        return;
    };
    for (signal, code) in [(Signal::Terminate, 143), (Signal::Kill, 137)] {
        // More of them than threads: each must give way for the others to print.
        let mut spinning = Vec::new();
        for _ in 0..4 {
            let log = Arc::new(Log::default());
            spinning.push(start(spec(image.clone(), &["spin"], &log)).await);
            log.contains("spinning").await;
        }
        let log = Arc::new(Log::default());
        let quick = start(spec(image.clone(), &["show"], &log)).await;
        assert_eq!(end(&quick).await.code, 0);
        for container in spinning {
            assert!(container.usage().await.unwrap().cpu > Duration::ZERO);
            container.signal(signal).await.unwrap();
            assert_eq!(end(&container).await.code, code);
            assert_eq!(container.usage().await, None);
        }
    }
}

#[tokio::test]
async fn memory_past_the_limit_is_oom_killed() {
    let Some(image) = guest("process", "process") else {
        return;
    };
    let log = Arc::new(Log::default());
    let mut spec = spec(image, &["hog"], &log);
    spec.limits.memory = Some(10 << 20);
    let exit = end(&start(spec).await).await;
    assert_eq!((exit.code, exit.reason), (137, "OOMKilled"));
    assert!(
        exit.message.contains("of 10485760 are in use"),
        "{}",
        exit.message
    );
    assert!(log.text().contains("holding 5 MiB"), "{}", log.text());
    assert!(!log.text().contains("holding 10 MiB"), "{}", log.text());
}

#[tokio::test]
async fn processor_time_past_the_limit_is_withheld() {
    let Some(image) = guest("process", "process") else {
        return;
    };
    let log = Arc::new(Log::default());
    let mut limited = spec(image, &["spin"], &log);
    limited.limits.cpu_millis = Some(100);
    let container = start(limited).await;
    log.contains("spinning").await;
    let started = std::time::Instant::now();
    let before = container.usage().await.unwrap().cpu;
    // A condition that needs elapsed time: two seconds of it, at a tenth of a processor.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let used = container.usage().await.unwrap().cpu - before;
    let share = used.as_secs_f64() / started.elapsed().as_secs_f64();
    assert!((0.02..0.2).contains(&share), "{share}");
    container.signal(Signal::Kill).await.unwrap();
    end(&container).await;
}

#[tokio::test]
async fn mounts_are_there_and_nothing_else_is() {
    let Some(image) = guest("process", "process") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("key"), "value").unwrap();
    let run = async |args: &[&str]| {
        let log = Arc::new(Log::default());
        let mut spec = spec(image.clone(), args, &log);
        let mount = |target: &str, read_only| Mount {
            source: dir.path().into(),
            target: target.into(),
            read_only,
            ..Mount::default()
        };
        spec.mounts = vec![mount("/config", true), mount("/data", false)];
        end(&start(spec).await).await;
        log.text()
    };
    assert_eq!(run(&["read", "/config/key"]).await, "Ok(\"value\")\n");
    assert!(run(&["write", "/config/new"]).await.starts_with("Err"));
    assert_eq!(run(&["write", "/data/new"]).await, "Ok(())\n");
    assert_eq!(
        std::fs::read_to_string(dir.path().join("new")).unwrap(),
        "written"
    );
    assert!(run(&["read", "/etc/hostname"]).await.starts_with("Err"));
    assert!(
        run(&["read", "/config/../../../../../etc/hostname"])
            .await
            .starts_with("Err")
    );
}

#[tokio::test]
async fn a_missing_mount_names_its_place() {
    let Some(image) = guest("process", "process") else {
        return;
    };
    let log = Arc::new(Log::default());
    let mut spec = spec(image, &["show"], &log);
    spec.mounts = vec![Mount {
        source: "/no/such".into(),
        target: "/config".into(),
        read_only: true,
        ..Mount::default()
    }];
    let Err(error) = runtime().start(spec).await else {
        panic!("started")
    };
    assert!(matches!(error, ContainerError::Config { .. }), "{error}");
    assert!(
        error
            .to_string()
            .contains("volumeMounts[/config]: /no/such"),
        "{error}"
    );
}

#[tokio::test]
async fn sockets_are_denied() {
    let Some(image) = guest("process", "process") else {
        return;
    };
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let log = Arc::new(Log::default());
    end(&start(spec(image, &["connect", &address], &log)).await).await;
    assert_eq!(log.text(), "false\n");
}

#[tokio::test]
async fn configuration_and_log_lines_are_had_by_the_interfaces_of_wasi() {
    let Some(image) = guest("settings", "settings") else {
        return;
    };
    let log = Arc::new(Log::default());
    let mut spec = spec(image, &[], &log);
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    spec.env = vec![pair("COLOUR", "red"), pair("COLOUR", "blue")];
    assert_eq!(end(&start(spec).await).await.code, 0);
    assert_eq!(
        log.text(),
        "! WARN colour: Some(\"blue\")\n! INFO Ok(None) second\n\
         ! DEBUG all: [(\"COLOUR\", \"blue\")]\n"
    );
}

#[tokio::test]
async fn values_are_kept_by_key_in_the_buckets_of_the_namespace_that_the_pod_names() {
    let Some(image) = guest("keyvalue", "keeper") else {
        return;
    };
    let run = async |namespace: &str, buckets: &str| {
        let log = Arc::new(Log::default());
        let mut spec = spec(image.clone(), &[], &log);
        spec.pod.namespace = namespace.into();
        let annotation = ("eyot.dev/keyvalue".to_owned(), buckets.to_owned());
        spec.annotations.extend([annotation]);
        assert_eq!(end(&start(spec).await).await.code, 0);
        log.text()
    };
    let first = run("keeping", "counts, other").await;
    assert_eq!(
        first,
        "before None\nruns 1\ngot Some([1, 2, 3]) true false\nmany [Some((\"a\", [65])), None, Some((\"b\", [66]))]\n\
         keys [\"b\", \"runs\", \"value\"]\nError::Other(\"the value of \\\"value\\\" is not a number from 0 to 18446744073709551615 that leaves room\")\n\
         unknown Error::NoSuchStore\n"
    );
    // Another pod of the namespace finds them, one of another namespace does not.
    assert!(
        run("keeping", "counts")
            .await
            .starts_with("before Some([1, 2, 3])\nruns 2\n")
    );
    assert!(
        run("elsewhere", "counts")
            .await
            .starts_with("before None\nruns 1\n")
    );
    assert_eq!(run("keeping", "").await, "denied Error::AccessDenied\n");
}
