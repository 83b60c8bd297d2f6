//! Exports: whole, within their limit and credit, or the end of the line.
use super::*;
use nova_proto::{CHUNK_MAX_BYTES, CREDIT_BYTES, Chunk};

impl Guest {
    async fn chunk(&mut self, id: u64, length: usize, last: bool) {
        self.send(id, Message::Chunk(Chunk { data: vec![7; length], last })).await;
    }

    /// What the host grants next.
    async fn granted(&mut self) -> usize {
        match self.receive().await.1 {
            Message::Credit(credit) => credit.bytes as usize,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_result_larger_than_the_credit_arrives_whole() {
    const CHUNKS: usize = 20;
    let (line, mut guest) = connect();
    let script = async {
        let (id, message) = guest.receive().await;
        assert!(matches!(message, Message::Export), "{message:?}");
        let mut credit = CREDIT_BYTES;
        for number in 1..=CHUNKS {
            while credit < CHUNK_MAX_BYTES {
                credit += guest.granted().await;
            }
            credit -= CHUNK_MAX_BYTES;
            guest.chunk(id, CHUNK_MAX_BYTES, number == CHUNKS).await;
        }
        guest.send(id, Message::Resp(Reply::Exported {})).await;
    };
    let (archive, ()) = tokio::join!(line.export(CHUNKS * CHUNK_MAX_BYTES), script);
    assert_eq!(archive.unwrap().len(), CHUNKS * CHUNK_MAX_BYTES);
}

#[tokio::test]
async fn a_result_over_the_limit_is_refused_and_ended_in_the_guest() {
    let (line, mut guest) = connect();
    let script = async {
        let (id, _) = guest.receive().await;
        guest.chunk(id, 1000, false).await;
        guest.chunk(id, 1, false).await;
        assert_eq!(guest.granted().await, 1000);
        let (cancelled, message) = guest.receive().await;
        assert_eq!((cancelled, message.kind()), (id, Message::Cancel.kind()));
        // What was under way already is thrown away.
        guest.chunk(id, 1, true).await;
        guest.send(id, Message::Resp(Reply::Exported {})).await;
        let (ping, _) = guest.receive().await;
        guest.send(ping, Message::Resp(Reply::Pong {})).await;
    };
    let host = async {
        let error = line.export(1000).await.unwrap_err();
        assert!(error.to_string().contains("over 1000 bytes"), "{error}");
        line.ping(PATIENCE).await.unwrap();
    };
    tokio::join!(host, script);
}

#[tokio::test]
async fn a_guest_that_refuses_says_why() {
    let (line, mut guest) = connect();
    let script = async {
        let (id, _) = guest.receive().await;
        guest.chunk(id, 10, false).await;
        let refusal = Refusal { kind: RefusalKind::SetupFailed, message: "send /out/pipe".into() };
        guest.send(id, Message::Resp(Reply::Refused(refusal))).await;
    };
    let (result, ()) = tokio::join!(line.export(1000), script);
    let error = result.unwrap_err();
    assert!(matches!(error, ExecError::Refused(_)), "{error:?}");
    assert!(error.to_string().contains("/out/pipe"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_sends_its_result_in_drips_is_given_up() {
    let (line, mut guest) = connect();
    let dripping = async {
        let (id, _) = guest.receive().await;
        loop {
            guest.chunk(id, 1, false).await;
            assert_eq!(guest.granted().await, 1);
            // Always before the host would call it silent.
            tokio::time::sleep(Duration::from_millis(EXEC_GRACE_MS / 2)).await;
        }
    };
    // A host without patience for the whole would go on for ever.
    let result = tokio::select! {
        result = timeout(Duration::from_secs(3600), line.export(usize::MAX)) => result,
        () = dripping => unreachable!("it never ends"),
    };
    let error = result.expect("it is still at it after an hour").unwrap_err();
    assert!(matches!(error, ExecError::Protocol(_)), "{error:?}");
}

/// Exports from a guest that does `hostile`, and returns why the line ended.
async fn export_ended_by<F>(hostile: impl FnOnce(Guest, u64) -> F) -> String
where
    F: Future<Output = Guest>,
{
    let (line, mut guest) = connect();
    let script = async {
        let (id, _) = guest.receive().await;
        hostile(guest, id).await
    };
    let export = line.export(usize::MAX);
    let (result, _guest) = timeout(PATIENCE, async { tokio::join!(export, script) }).await.unwrap();
    assert!(matches!(result, Err(ExecError::Lost(_))), "{result:?}");
    timeout(PATIENCE, line.closed()).await.unwrap()
}

#[tokio::test]
async fn more_than_its_credit_ends_the_line() {
    let (line, mut guest) = connect();
    // Nobody polls the export, so that nothing is granted.
    let export = line.export(usize::MAX);
    tokio::pin!(export);
    assert!(futures::poll!(&mut export).is_pending());
    let (id, _) = guest.receive().await;
    for _ in 0..CREDIT_BYTES / CHUNK_MAX_BYTES {
        guest.chunk(id, CHUNK_MAX_BYTES, false).await;
    }
    guest.chunk(id, 1, false).await;
    let reason = timeout(PATIENCE, line.closed()).await.unwrap();
    assert!(reason.contains("more than its credit"), "{reason}");
}

#[tokio::test]
async fn an_answer_before_the_last_chunk_ends_the_line() {
    let reason = export_ended_by(|mut guest, id| async move {
        guest.chunk(id, 10, false).await;
        guest.send(id, Message::Resp(Reply::Exported {})).await;
        guest
    });
    assert!(reason.await.contains("of the wrong kind"));
}

#[tokio::test]
async fn a_chunk_behind_the_last_ends_the_line() {
    let reason = export_ended_by(|mut guest, id| async move {
        guest.chunk(id, 10, true).await;
        guest.chunk(id, 10, true).await;
        guest
    });
    assert!(reason.await.contains("a chunk behind the last"));
}

#[tokio::test]
async fn a_chunk_that_nobody_asked_for_ends_the_line() {
    let reason = ended_by(|mut guest, id| async move {
        guest.chunk(id, 10, false).await;
        guest
    });
    assert!(reason.await.contains("which is not an export"));
}
