use std::{path::PathBuf, time::Duration};

use eyot_runtime::{LogSink, LogStream::*};
use futures::StreamExt;

use super::*;

/// A directory of this test's own.
fn directory(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("eyot-node-log-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).unwrap();
    path
}

fn log(name: &str, limit: u64) -> Arc<Log> {
    Log::for_test(directory(name).join("0.log"), limit)
}

async fn read(log: &Arc<Log>, query: &str) -> String {
    let options = Options::parse(query, Timestamp::now()).unwrap();
    let stream = Reader::open(Arc::clone(log), options)
        .unwrap()
        .into_stream();
    let chunks: Vec<_> = stream.map(|chunk| chunk.unwrap()).collect().await;
    String::from_utf8(chunks.concat()).unwrap()
}

#[tokio::test]
async fn output_comes_back_as_it_was_written_with_both_streams_in_order() {
    let log = log("order", 1 << 20);
    log.write(Stdout, b"one\ntw");
    log.write(Stderr, b"oops\n");
    log.write(Stdout, b"o\nthree without end");
    log.close_for_test();
    assert_eq!(read(&log, "").await, "one\noops\ntwo\nthree without end");
    assert_eq!(read(&log, "stream=Stderr").await, "oops\n");
}

#[tokio::test]
async fn a_very_long_line_is_stored_in_pieces_and_shown_as_one() {
    let log = log("long", 1 << 20);
    let long = "x".repeat(50_000);
    log.write(Stdout, format!("{long}\nend\n").as_bytes());
    assert_eq!(read(&log, "").await, format!("{long}\nend\n"));
}

#[tokio::test]
async fn tail_limit_and_timestamps_cut_as_asked() {
    let log = log("tail", 1 << 20);
    for number in 0..20_000 {
        log.write(Stdout, format!("line {number}\n").as_bytes());
    }
    assert_eq!(read(&log, "tailLines=2").await, "line 19998\nline 19999\n");
    assert_eq!(read(&log, "tailLines=0").await, "");
    assert_eq!(
        read(&log, "tailLines=999999&limitBytes=9").await,
        "line 0\nli"
    );
    let stamped = read(&log, "tailLines=1&timestamps=true").await;
    let (time, text) = stamped.split_once(' ').unwrap();
    assert!(time.parse::<Timestamp>().is_ok(), "{stamped}");
    assert_eq!(text, "line 19999\n");
}

#[tokio::test]
async fn since_skips_what_is_older() {
    let log = log("since", 1 << 20);
    log.write(Stdout, b"old\n");
    let between = Timestamp::now();
    log.write(Stdout, b"new\n");
    assert_eq!(
        read(&log, &format!("sinceTime={between:.9}")).await,
        "new\n"
    );
    assert_eq!(read(&log, "sinceSeconds=3600").await, "old\nnew\n");
}

#[tokio::test]
async fn a_rotated_log_is_read_from_its_oldest_file_and_bounded() {
    let log = log("rotate", 1000);
    for number in 0..100 {
        log.write(Stdout, format!("line {number:03}\n").as_bytes());
    }
    let text = read(&log, "").await;
    assert!(text.ends_with("line 098\nline 099\n"), "{text}");
    assert!(!text.contains("line 000\n"), "the oldest file is gone");
    let count = text.lines().count();
    assert!((40..100).contains(&count), "{count} lines are left");
    let expected: String = (70..100)
        .map(|number| format!("line {number:03}\n"))
        .collect();
    assert_eq!(
        read(&log, "tailLines=30").await,
        expected,
        "tail crosses files"
    );
}

#[tokio::test]
async fn following_sees_lines_across_rotations_and_ends_with_the_container() {
    let log = log("follow", 2000);
    log.write(Stdout, b"first\n");
    let follower = Arc::clone(&log);
    let reading = tokio::spawn(async move { read(&follower, "follow=true").await });
    for number in 0..200 {
        log.write(Stdout, format!("line {number}\n").as_bytes());
        tokio::task::yield_now().await;
    }
    log.close_for_test();
    let text = tokio::time::timeout(Duration::from_secs(10), reading)
        .await
        .unwrap()
        .unwrap();
    assert!(text.ends_with("line 198\nline 199\n"), "{text}");
}

#[test]
fn a_query_that_makes_no_sense_is_refused_by_name() {
    let now = Timestamp::now();
    for (query, field) in [
        ("tailLines=-1", "tailLines"),
        ("limitBytes=0", "limitBytes"),
        ("sinceTime=yesterday", "sinceTime"),
        ("sinceSeconds=x", "sinceSeconds"),
        ("stream=Both", "stream"),
    ] {
        assert_eq!(Options::parse(query, now).unwrap_err().field, field);
    }
    assert!(Options::parse("follow&unknown=1", now).unwrap().follow);
}
