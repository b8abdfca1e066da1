//! Which messages are purged.

use dead_letters::{Options, Task};

use crate::broker::{Broker, DeadLetter};
use crate::{all, with_reason};

#[tokio::test]
async fn exactly_the_selected_messages_are_purged() {
    let broker = Broker::declared().await;
    let messages = [
        DeadLetter::new("1", "unreadable"),
        DeadLetter::new("2", "rejected"),
        DeadLetter::new("3", "unreadable"),
        DeadLetter::new("4", "rejected"),
    ];
    broker.put_dead(&messages).await;
    let report = broker
        .run(&with_reason(Task::Purge, "unreadable"))
        .await
        .unwrap();
    assert_eq!(
        (report.examined, report.selected, report.done, report.kept),
        (4, 2, 2, 2)
    );
    assert_eq!(broker.alive().await, [""; 0]);
    assert_eq!(broker.dead().await, ["2", "4"]);
}

#[tokio::test]
async fn a_dry_run_purges_nothing() {
    let broker = Broker::declared().await;
    broker
        .put_dead(&["1", "2"].map(|id| DeadLetter::new(id, "rejected")))
        .await;
    let options = Options {
        dry_run: true,
        ..all(Task::Purge)
    };
    let report = broker.run(&options).await.unwrap();
    assert_eq!((report.selected, report.done), (2, 0));
    assert_eq!(broker.dead().await, ["1", "2"]);
}
