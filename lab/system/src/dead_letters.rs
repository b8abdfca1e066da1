//! Dead letters, read through RabbitMQ's management API without taking them.
//!
//! The API's counts lag by a second, and its statistics by several, so the count of dead letters comes from the messages themselves:
//! with each one the broker tells how many are behind it. Left out: moving them ([`tool`]).

pub mod tool;

use std::{borrow::Cow, collections::BTreeMap, time::Duration};

use anyhow::anyhow;
use base::outcome::{self, Exit};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use shared_events::{
    dead_letters::Facts,
    topology::{self, RETRY_TIERS, headers},
};

use crate::{
    broker,
    http::{Answer, Client},
    members::Member,
    project::Project,
};

/// How many messages of a queue are looked at, at most; the count is exact beyond that.
pub const READ_LIMIT: usize = 1_000;
/// How many bytes of bodies are looked at, where a queue has more. The broker cuts a body only after it has loaded it,
/// and has all of them in memory at once: a thousand of the largest messages are more than its container has, and the
/// kernel ends it.
pub const READ_LIMIT_BYTES: usize = 16 * 1024 * 1024;
/// How many messages of such a queue are looked at first, and how many more at a time: nobody knows the size of what
/// comes next. Of the largest messages so many are below that limit.
const FIRST_READ: usize = 40;
const MOST_READ_MORE: usize = 128;
/// How old the broker's counts of a queue's messages may be: compose.yaml's `quorum_tick_interval`, and as much for a busy machine.
pub const COUNTS_LAG: Duration = Duration::from_secs(2);
/// How many dead letters a verdict shows.
const SAMPLES: usize = 5;

/// The names of all dead-letter queues.
pub fn queues() -> Vec<String> {
    topology::ALL
        .iter()
        .map(topology::Topology::dead_letter_queue)
        .collect()
}

/// The names of all queues whose messages may still become dead letters.
pub fn live_queues() -> Vec<String> {
    let of_stream = |stream: topology::Topology| {
        let tiers = RETRY_TIERS.map(|tier| stream.retry_queue(tier));
        [stream.queue()].into_iter().chain(tiers)
    };
    topology::ALL.into_iter().flat_map(of_stream).collect()
}

/// One dead letter.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DeadLetter {
    /// The dead-letter queue that it is in.
    pub queue: String,
    /// The event's id, where it can be read.
    pub id: Option<String>,
    /// The event's type, where it can be read.
    #[serde(rename = "type")]
    pub event_type: Option<String>,
    /// Why it was dead-lettered: the header's word, e.g. `unreadable`; `None` without the header.
    pub reason: Option<String>,
    /// The last error's text.
    pub error: Option<String>,
    /// How often handling it has failed.
    pub attempts: Option<i64>,
    /// The routing key it was first published with.
    pub routing_key: String,
    /// When it was dead-lettered.
    pub failed_at: Option<DateTime<Utc>>,
    /// All headers.
    pub headers: Map<String, Value>,
    /// The body's full size, in bytes.
    pub payload_bytes: usize,
    /// The body, cut where the reader asked for less; base64 where it isn't text.
    pub payload: String,
}

impl DeadLetter {
    /// The reason in a word, also where there is none.
    pub fn reason(&self) -> &str {
        self.reason.as_deref().unwrap_or("none given")
    }

    /// The facts that a selection is matched with.
    pub fn facts(&self) -> Facts {
        Facts {
            id: self.id.clone(),
            event_type: self.event_type.clone(),
            reason: self.reason.clone(),
            failed_at: self.failed_at,
            first_failed_at: None,
        }
    }
}

/// The content of one dead-letter queue.
#[derive(Debug, Clone, PartialEq)]
pub struct QueueContent {
    /// The queue's name.
    pub queue: String,
    /// How many messages are in it, exact also beyond those that were read.
    pub count: usize,
    /// The first messages, up to the number asked for.
    pub letters: Vec<DeadLetter>,
}

/// Reads dead letters of one broker.
#[derive(Debug)]
pub struct Reader {
    client: Client,
}

impl Reader {
    /// A reader of the project's broker; an error when that doesn't run.
    pub fn new(project: &Project, members: &[Member]) -> anyhow::Result<Self> {
        Ok(Self {
            client: broker::management(&project.settings()?, members)?,
        })
    }

    /// How many messages are under way, over all streams: in the streams' queues and in their retry tiers, handed
    /// out or not. As the broker's counts have it, which may be [`COUNTS_LAG`] old: a look at the messages
    /// themselves would count as a delivery of theirs.
    pub fn waiting(&self) -> anyhow::Result<usize> {
        self.messages_in(live_queues())
    }

    /// How many messages wait in retry tiers, over all streams; as old as [`Reader::waiting`].
    pub fn waiting_for_retry(&self) -> anyhow::Result<usize> {
        let tiers = topology::ALL
            .into_iter()
            .flat_map(|stream| RETRY_TIERS.map(|tier| stream.retry_queue(tier)));
        self.messages_in(tiers)
    }

    /// Without the statistics, which are sampled only every five seconds.
    fn messages_in(&self, queues: impl IntoIterator<Item = String>) -> anyhow::Result<usize> {
        let counts = [("disable_stats", "true"), ("enable_queue_totals", "true")];
        let answer = self.client.get("/api/queues/%2F", &[], &counts)?;
        if answer.status != 200 {
            return Err(unreadable("the queues", &answer));
        }
        let counted: Vec<Counted> = answer.json()?;
        let of = |queue: String| {
            let mut same = counted.iter().filter(|counted| counted.name == queue);
            same.next()
                .map(|counted| counted.messages)
                .ok_or_else(|| missing(&queue))
        };
        queues.into_iter().map(of).sum()
    }

    fn statistics(&self, queue: &str) -> anyhow::Result<Statistics> {
        let answer = self
            .client
            .get(&format!("/api/queues/%2F/{queue}"), &[], &[])?;
        match answer.status {
            200 => answer.json(),
            _ => Err(unreadable(queue, &answer)),
        }
    }

    /// Looks at the first messages of a queue and puts them back: at `limit` of them, or at those that come before
    /// [`READ_LIMIT_BYTES`].
    pub fn read(
        &self,
        queue: &str,
        limit: usize,
        payload_limit_bytes: usize,
    ) -> anyhow::Result<QueueContent> {
        let known = self.statistics(queue)?;
        // Statistics that know of no message may be older than what is there. Otherwise all at once: a look puts what it has read
        // behind the rest.
        let is_light = known.messages > 0 && known.message_bytes <= READ_LIMIT_BYTES;
        if limit <= FIRST_READ || is_light {
            return self.look(queue, limit, payload_limit_bytes);
        }
        let mut asked = FIRST_READ;
        let mut content = self.look(queue, asked, payload_limit_bytes)?;
        // What one look puts back may be on its way when the next one counts.
        let count = content.count;
        while let Some(next) = next_look(&content, asked, limit) {
            asked = next;
            content = self.look(queue, asked, payload_limit_bytes)?;
            content.count = content.count.max(count);
        }
        Ok(content)
    }

    /// Looks at so many, whatever they weigh.
    fn look(
        &self,
        queue: &str,
        limit: usize,
        payload_limit_bytes: usize,
    ) -> anyhow::Result<QueueContent> {
        let request = json!({
            "count": limit, "ackmode": "ack_requeue_true", "encoding": "auto", "truncate": payload_limit_bytes,
        });
        let answer =
            self.client
                .post(&format!("/api/queues/%2F/{queue}/get"), &[], Some(&request))?;
        match answer.status {
            200 => Ok(content(queue, answer.json()?)),
            _ => Err(unreadable(queue, &answer)),
        }
    }
}

/// How many to look at instead of those `asked` for; `None` where that was enough.
fn next_look(content: &QueueContent, asked: usize, limit: usize) -> Option<usize> {
    let seen = content.letters.len();
    if seen < asked || seen >= content.count {
        return None;
    }
    let sizes = content.letters.iter().map(|letter| letter.payload_bytes);
    let largest = sizes.clone().max().unwrap_or_default().max(1);
    let room = READ_LIMIT_BYTES.saturating_sub(sizes.sum()) / largest;
    let more = seen
        .clamp(FIRST_READ, MOST_READ_MORE)
        .min(room)
        .min(limit.saturating_sub(seen));
    (more > 0).then_some(seen + more)
}

/// What the broker says of one of all queues.
#[derive(Debug, Deserialize)]
struct Counted {
    name: String,
    // Absent until a new queue's first tick.
    #[serde(default)]
    messages: usize,
}

/// What the broker's statistics say of a queue.
#[derive(Debug, Deserialize)]
struct Statistics {
    // Absent until the first statistics of a new queue.
    #[serde(default)]
    messages: usize,
    #[serde(default)]
    message_bytes: usize,
}

fn missing(queue: &str) -> anyhow::Error {
    outcome::unavailable(
        format!("there is no queue {queue}: the services that declare it haven't started"),
        "`cargo xtask status` shows what isn't healthy",
    )
}

fn unreadable(queue: &str, answer: &Answer) -> anyhow::Error {
    match answer.status {
        401 => outcome::unavailable(
            "RabbitMQ refuses the password in .env",
            "put back the .env that the system was started with",
        ),
        404 => missing(queue),
        _ => anyhow!("RabbitMQ can't read {queue}: {}", answer.shown()),
    }
}

/// A message as the management API gives it.
#[derive(Debug, Deserialize)]
struct Message {
    routing_key: String,
    message_count: usize,
    payload: String,
    /// `base64` where the part that was asked for isn't UTF-8, be it only because a character is cut in two.
    #[serde(default)]
    payload_encoding: String,
    payload_bytes: usize,
    /// An object; an empty *array* when the message has no properties.
    properties: Value,
}

impl Message {
    /// The body's bytes, as the tool that moves dead letters has them.
    fn body(&self) -> Cow<'_, [u8]> {
        let decoded = (self.payload_encoding == "base64").then(|| BASE64.decode(&self.payload));
        match decoded {
            Some(Ok(bytes)) => Cow::Owned(bytes),
            _ => Cow::Borrowed(self.payload.as_bytes()),
        }
    }
}

fn content(queue: &str, messages: Vec<Message>) -> QueueContent {
    QueueContent {
        queue: queue.to_owned(),
        // Behind the first message are all the others, read here or not.
        count: messages.first().map_or(0, |first| first.message_count + 1),
        letters: messages
            .into_iter()
            .map(|message| letter(queue, message))
            .collect(),
    }
}

fn letter(queue: &str, message: Message) -> DeadLetter {
    let property = |name: &str| message.properties.get(name);
    let all = property("headers")
        .and_then(Value::as_object)
        .cloned()
        .unwrap_or_default();
    let text = |name: &str| all.get(name).and_then(Value::as_str).map(str::to_owned);
    let of_property = |name: &str| property(name).and_then(Value::as_str).map(str::to_owned);
    let broker_time =
        || DateTime::from_timestamp(all.get("x-death")?.get(0)?.get("time")?.as_i64()?, 0);
    let facts = Facts::gather(
        of_property("message_id"),
        of_property("type"),
        &message.body(),
        text,
        broker_time(),
    );
    DeadLetter {
        queue: queue.to_owned(),
        id: facts.id,
        event_type: facts.event_type,
        reason: facts.reason,
        failed_at: facts.failed_at,
        error: text(headers::ERROR),
        attempts: all.get(headers::ATTEMPTS).and_then(Value::as_i64),
        payload: shown(&message),
        routing_key: text(headers::ROUTING_KEY).unwrap_or(message.routing_key),
        payload_bytes: message.payload_bytes,
        headers: all,
    }
}

/// The body as text; without the character at its end that is cut in two. Base64 where it isn't text.
fn shown(message: &Message) -> String {
    match std::str::from_utf8(&message.body()) {
        Ok(text) => text.to_owned(),
        Err(error) if error.error_len().is_none() => {
            let whole = &message.body()[..error.valid_up_to()];
            String::from_utf8_lossy(whole).into_owned()
        }
        Err(_) => message.payload.clone(),
    }
}

/// The result of `verify-dlq`.
#[derive(Debug, PartialEq, Serialize)]
pub struct Verdict {
    /// Holds when there are exactly as many dead letters as expected.
    pub outcome: Exit,
    /// How many were expected, over all queues.
    pub expected: usize,
    /// How many there are, over all queues.
    pub total: usize,
    /// How many dead letters each queue has.
    pub queues: BTreeMap<String, usize>,
    /// How many dead letters each queue has for which reason, of those that were examined.
    pub reasons: BTreeMap<String, BTreeMap<String, usize>>,
    /// How many dead letters were examined for their reasons and ages.
    pub examined: usize,
    /// The longest time since a message was dead-lettered.
    pub oldest_age_seconds: Option<u64>,
    /// How many messages were under way, in queues and retry tiers: they may still become dead.
    pub waiting: usize,
    /// The first few dead letters.
    pub samples: Vec<DeadLetter>,
}

/// What `verify-dlq` expects.
#[derive(Debug, Clone, Copy)]
pub struct Expectation {
    /// How many dead letters there should be, over all queues.
    pub dead: usize,
    /// Whether no message may be under way that could become one.
    pub settled: bool,
}

/// Compares the queues' content with what was expected. `waiting` was read before the queues.
pub fn judge(
    contents: &[QueueContent],
    waiting: usize,
    expected: Expectation,
    now: DateTime<Utc>,
) -> Verdict {
    let letters = || contents.iter().flat_map(|content| &content.letters);
    let total = contents.iter().map(|content| content.count).sum();
    let mut reasons: BTreeMap<String, BTreeMap<String, usize>> = BTreeMap::new();
    for letter in letters() {
        *reasons
            .entry(letter.queue.clone())
            .or_default()
            .entry(letter.reason().to_owned())
            .or_default() += 1;
    }
    let oldest = letters().filter_map(|letter| letter.failed_at).min();
    Verdict {
        outcome: match total {
            // More may come, and none goes by itself.
            _ if expected.settled && waiting > 0 && total <= expected.dead => Exit::Inconclusive,
            _ if total == expected.dead => Exit::Holds,
            _ => Exit::Failed,
        },
        expected: expected.dead,
        total,
        queues: contents
            .iter()
            .map(|content| (content.queue.clone(), content.count))
            .collect(),
        reasons,
        examined: letters().count(),
        waiting,
        oldest_age_seconds: oldest
            .map(|oldest| (now - oldest).num_seconds().try_into().unwrap_or_default()),
        samples: letters().take(SAMPLES).cloned().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(json: &str) -> Vec<Message> {
        serde_json::from_str(json).unwrap()
    }

    fn dead(dead: usize) -> Expectation {
        Expectation {
            dead,
            settled: false,
        }
    }

    const OURS: &str = r#"[{"payload_bytes":4,"redelivered":false,"exchange":"order_events.dlx","routing_key":"k",
        "message_count":11,"payload":"nope","payload_encoding":"string","properties":{"message_id":"m-1",
        "headers":{"x-agora-reason":"unreadable","x-agora-error":"expected value","x-agora-attempts":1,
        "x-agora-routing-key":"agora.order.placed.v1","x-agora-failed-at":"2026-11-22T10:00:00Z"}}}]"#;

    /// What [`Reader::read`] asks for, one look after the other, of a large queue with messages of these sizes.
    fn looks(sizes: &[usize], limit: usize) -> Vec<usize> {
        let look = |count: usize| {
            let read = sizes.iter().take(count).zip((0..sizes.len()).rev());
            let read = read.map(|(size, left)| {
                let message = json!({ "routing_key": "k", "message_count": left, "payload": "",
                    "payload_bytes": size, "properties": [] });
                serde_json::from_value(message).unwrap()
            });
            content("q", read.collect())
        };
        let mut looks = vec![FIRST_READ];
        while let Some(next) = {
            let asked = *looks.last().unwrap();
            next_look(&look(asked), asked, limit)
        } {
            looks.push(next);
        }
        looks
    }

    const KIB: usize = 1024;
    const MIB: usize = 1024 * KIB;

    #[test]
    fn many_small_letters_are_read_in_few_looks() {
        let looks = looks(&[KIB; 90_000], READ_LIMIT);
        assert_eq!(looks.last(), Some(&READ_LIMIT));
        assert!(looks.len() < 15, "{looks:?}");
    }

    #[test]
    fn no_look_asks_the_broker_for_more_than_it_has_room_for() {
        let large = looks(&[MIB; 1_000], READ_LIMIT);
        assert_eq!(large, [40]);
        // Whatever comes first: what is not known yet is bounded by its number.
        for small_first in [1, 100, 500, 900] {
            let sizes = [vec![KIB; small_first], vec![MIB; 1_000]].concat();
            for look in looks(&sizes, READ_LIMIT) {
                let bytes: usize = sizes[..look].iter().sum();
                let bound = READ_LIMIT_BYTES + MOST_READ_MORE * MIB;
                assert!(bytes <= bound, "{small_first}: {look} dead letters");
            }
        }
    }

    #[test]
    fn a_look_ends_with_the_queue_or_with_what_was_asked_for() {
        assert_eq!(looks(&[], READ_LIMIT), [40]);
        assert_eq!(looks(&[KIB; 30], READ_LIMIT), [40]);
        assert_eq!(looks(&[KIB; 60], READ_LIMIT), [40, 80]);
        assert_eq!(looks(&[KIB; 300], 100), [40, 80, 100]);
        // Some are on their way back from the look before.
        assert_eq!(
            next_look(&content("q", messages(OURS)), 8, READ_LIMIT),
            None
        );
    }

    #[test]
    fn the_count_is_exact_beyond_what_was_read() {
        let content = content("order_events.dead", messages(OURS));
        assert_eq!((content.count, content.letters.len()), (12, 1));
    }

    #[test]
    fn a_letter_of_ours_tells_its_story() {
        let letter = content("q", messages(OURS)).letters.remove(0);
        assert_eq!(letter.id.as_deref(), Some("m-1"));
        assert_eq!((letter.reason(), letter.attempts), ("unreadable", Some(1)));
        assert_eq!(letter.routing_key, "agora.order.placed.v1");
    }

    #[test]
    fn a_letter_of_the_broker_has_its_reason_and_time() {
        let json = r#"[{"payload_bytes":2,"routing_key":"k","message_count":0,"payload":"{\"id\":\"e\",\"type\":\"t\"}",
            "properties":{"headers":{"x-last-death-reason":"delivery_limit","x-death":[{"time":1700000000}]}}}]"#;
        let letter = content("q", messages(json)).letters.remove(0);
        assert_eq!(letter.reason(), "delivery_limit");
        assert_eq!(
            (letter.id.as_deref(), letter.event_type.as_deref()),
            (Some("e"), Some("t"))
        );
        assert_eq!(letter.failed_at.unwrap().timestamp(), 1_700_000_000);
    }

    #[test]
    fn a_message_without_properties_is_read_as_well() {
        let json = r#"[{"payload_bytes":1,"routing_key":"k","message_count":0,"payload":"x","properties":[]}]"#;
        assert_eq!(
            content("q", messages(json)).letters[0].reason(),
            "none given"
        );
    }

    #[test]
    fn a_body_that_is_cut_in_the_middle_of_a_character_is_read_up_to_there() {
        // `{"id":"e","type":"t","data":"é`, without the last byte.
        let json = r#"[{"payload_bytes":3000,"routing_key":"k","message_count":0,"payload_encoding":"base64",
            "payload":"eyJpZCI6ImUiLCJ0eXBlIjoidCIsImRhdGEiOiLD","properties":[]}]"#;
        let letter = content("q", messages(json)).letters.remove(0);
        assert_eq!(letter.event_type.as_deref(), Some("t"));
        assert_eq!(letter.payload, r#"{"id":"e","type":"t","data":""#);
        let no_text = json.replace("eyJpZCI6ImUiLCJ0eXBlIjoidCIsImRhdGEiOiLD", "//7/");
        let letter = content("q", messages(&no_text)).letters.remove(0);
        assert_eq!(letter.payload, "//7/");
    }

    #[test]
    fn an_empty_queue_holds_only_when_nothing_is_expected() {
        let empty = [content("q", Vec::new())];
        assert_eq!(judge(&empty, 0, dead(0), Utc::now()).outcome, Exit::Holds);
        assert_eq!(judge(&empty, 0, dead(1), Utc::now()).outcome, Exit::Failed);
    }

    #[test]
    fn what_waits_is_a_note_unless_all_has_to_be_settled() {
        let contents = [content("q", messages(OURS))];
        let judged = |expected| judge(&contents, 3, expected, Utc::now());
        assert_eq!(
            (judged(dead(12)).outcome, judged(dead(12)).waiting),
            (Exit::Holds, 3)
        );
        let settled = |dead| Expectation {
            dead,
            settled: true,
        };
        assert_eq!(judged(settled(12)).outcome, Exit::Inconclusive);
        assert_eq!(judged(settled(13)).outcome, Exit::Inconclusive);
        assert_eq!(judged(settled(11)).outcome, Exit::Failed);
    }

    #[test]
    fn every_queue_and_tier_of_every_stream_is_looked_at() {
        let queues = live_queues();
        assert_eq!(queues.len(), 8);
        assert!(
            queues.contains(&"inventory_events.retry.25s".to_owned()),
            "{queues:?}"
        );
    }

    #[test]
    fn dead_letters_nobody_expected_fail_with_their_reasons_and_age() {
        let now = DateTime::parse_from_rfc3339("2026-11-22T10:01:00Z")
            .unwrap()
            .with_timezone(&Utc);
        let contents = [content("q", messages(OURS))];
        let verdict = judge(&contents, 0, dead(0), now);
        assert_eq!((verdict.outcome, verdict.total), (Exit::Failed, 12));
        assert_eq!(verdict.reasons["q"]["unreadable"], 1);
        assert_eq!(verdict.oldest_age_seconds, Some(60));
        assert_eq!(judge(&contents, 0, dead(12), now).outcome, Exit::Holds);
    }
}
