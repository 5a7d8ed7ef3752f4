use super::*;

fn shell(script: &str) -> Program {
    Program::new("sh", Path::new("/bin/sh")).args(["-c", script])
}

async fn pass(script: &str, mut feed: &[u8]) -> (Result<Finished, ComponentError>, Vec<u8>) {
    let mut seen = Vec::new();
    let keep = |chunk: &[u8]| {
        seen.extend_from_slice(chunk);
        Ok(())
    };
    let finished = shell(script).pass(&mut feed, &Meter::default(), keep).await;
    (finished, seen)
}

#[tokio::test]
async fn what_a_child_reads_it_can_write() {
    let feed = vec![b'x'; 3 << 20];
    let (finished, seen) = pass("cat; echo done >&2", &feed).await;
    let finished = finished.unwrap();
    assert_eq!((finished.stderr.as_str(), finished.unread), ("done", false));
    assert!(seen == feed);
}

#[tokio::test]
async fn a_child_that_wants_no_more_is_told_from_one_that_read_all() {
    for len in [1, 100, 10_000, 3 << 20] {
        let (finished, _) = pass("exit 0", &vec![0; len]).await;
        assert!(finished.unwrap().unread, "{len}");
    }
}

#[tokio::test]
async fn the_exit_status_outranks_a_feed_that_was_not_read() {
    let (finished, _) = pass("echo no more >&2; exit 4", &vec![0; 3 << 20]).await;
    let err = finished.unwrap_err();
    assert!(
        matches!(&err, ComponentError::Failed { stderr, transient: false, .. } if stderr == "no more"),
        "{err:?}"
    );
}

#[tokio::test]
async fn a_program_that_is_not_there_is_a_matter_of_configuration() {
    let err = Program::new("pg_dump", Path::new("/nonexistent/pg_dump")).text().await.unwrap_err();
    assert!(matches!(err, ComponentError::Unusable { .. }), "{err:?}");
}
