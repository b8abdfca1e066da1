//! Which letters are removed.

use dead_letters::{Options, Task};

use crate::broker::{Broker, Letter};
use crate::{all, with_reason};

#[tokio::test]
async fn exactly_the_selected_letters_are_removed() {
    let broker = Broker::declared().await;
    let letters = [
        Letter::new("1", "unreadable"),
        Letter::new("2", "rejected"),
        Letter::new("3", "unreadable"),
        Letter::new("4", "rejected"),
    ];
    broker.bury(&letters).await;
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
async fn a_dry_run_removes_nothing() {
    let broker = Broker::declared().await;
    broker
        .bury(&["1", "2"].map(|id| Letter::new(id, "rejected")))
        .await;
    let options = Options {
        dry_run: true,
        ..all(Task::Purge)
    };
    let report = broker.run(&options).await.unwrap();
    assert_eq!((report.selected, report.done), (2, 0));
    assert_eq!(broker.dead().await, ["1", "2"]);
}
