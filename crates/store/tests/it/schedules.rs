//! Jobs by the clock: what is kept of them and of their runs.

use crate::open;
use store::{CronJob, CronRunFilter};

fn job(id: &str, next_ms: Option<i64>) -> CronJob {
    CronJob {
        id: id.into(),
        job: r#"{"name":"x"}"#.into(),
        state: "{}".into(),
        next_ms,
        run_id: None,
    }
}

#[tokio::test]
async fn a_run_ends_once_and_old_ones_are_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("m.db"));
    store.opened().await.unwrap();
    let week = 7 * 24 * 60 * 60 * 1000;
    store
        .write(move |tx| {
            let schedules = tx.schedules();
            schedules.put(&job("a", Some(5)))?;
            schedules.put(&job("b", None))?;
            schedules.put(&job("a", Some(7)))?;
            schedules.begin("old", "b", 1)?;
            assert!(schedules.end("old", "b", "{}", 2)?);
            schedules.begin("run", "a", week)?;
            assert_eq!(schedules.open_runs()?.len(), 1);
            assert!(schedules.end("run", "a", r#"{"status":"ok"}"#, week + 2)?);
            assert!(!schedules.end("run", "a", r#"{"status":"error"}"#, week + 3)?);
            Ok(())
        })
        .await
        .unwrap();
    let again = store.write(|tx| tx.schedules().begin("run", "a", 9)).await;
    assert!(again.is_err(), "a run id begins once: {again:?}");
    let (jobs, runs, open) = store
        .read(|reader| {
            let schedules = reader.schedules();
            let runs = schedules.runs(&CronRunFilter::default())?;
            Ok((schedules.jobs()?, runs, schedules.open_runs()?))
        })
        .await
        .unwrap();
    assert_eq!(
        jobs.iter()
            .map(|job| (job.id.as_str(), job.next_ms))
            .collect::<Vec<_>>(),
        [("a", Some(7)), ("b", None)]
    );
    assert_eq!(runs.len(), 1, "the one of a week ago is gone");
    assert_eq!(runs[0].entry.as_deref(), Some(r#"{"status":"ok"}"#));
    assert!(open.is_empty());
}

#[tokio::test]
async fn conversations_of_runs_are_forgotten_and_no_others() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("m.db"));
    store.opened().await.unwrap();
    let kept = store
        .write(|tx| {
            let agents = tx.agents();
            for (key, at) in [
                ("agent:main:main", 1),
                ("agent:main:cron:j:run:1", 1),
                ("agent:main:cron:j:run:2", 90),
                ("agent:main:cron:j", 1),
            ] {
                agents.open(key, "main", key, at)?;
            }
            assert_eq!(tx.schedules().forget_conversations(50)?, 1);
            agents.list(None, false, 0, 9)
        })
        .await
        .unwrap();
    let mut keys: Vec<_> = kept.iter().map(|session| session.key.as_str()).collect();
    keys.sort_unstable();
    assert_eq!(
        keys,
        [
            "agent:main:cron:j",
            "agent:main:cron:j:run:2",
            "agent:main:main"
        ]
    );
}
