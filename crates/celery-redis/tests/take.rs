//! Taking messages from a real Redis: only ours, in order, each exactly once, and settled.

use celery_redis::CeleryError;
use celery_redis::consumer::{Consumer, Notice, Verdict};
use celery_redis::message::Envelope;
use redis::AsyncCommands;
use serde_json::{Value, json};
use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};
use test_support::celery_lab::{
    Lab, capture, content, entries, judge, message, next, until, with_body, within,
};
use test_support::redis::Redis;
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn ours_are_taken_from_among_others_which_stay_in_order() {
    let lab = Lab::new();
    let consumer = lab.consumer();
    let all: Vec<_> =
        (0..300).map(|n| message(if n % 10 == 5 { "ours" } else { "theirs" }, &n.to_string())).collect();
    lab.push(&all).await;
    for n in (5..300).step_by(10) {
        let delivery = next(&consumer).await;
        assert_eq!(content(&delivery).id, n.to_string());
        delivery.lease.ack(&lab.stop).await.unwrap();
    }
    let theirs: Vec<_> = all.into_iter().filter(|raw| raw.contains("theirs")).collect();
    assert_eq!(lab.list("q").await, theirs);
    assert_eq!(lab.unacked().await, [""; 0]);

    // What others take from the right end, and what comes to either end, is noticed.
    let mut link = lab.link().await;
    let _: Vec<String> = link.rpop("q", std::num::NonZeroUsize::new(7)).await.unwrap();
    lab.push(&[message("ours", "newest")]).await;
    assert_eq!(content(&next(&consumer).await).id, "newest");
    let _: usize = link.rpush("q", message("ours", "restored")).await.unwrap();
    assert_eq!(content(&next(&consumer).await).id, "restored");
    assert_eq!(lab.list("q").await, theirs[7..]);
}

#[tokio::test]
async fn a_message_put_back_is_found_though_the_queue_is_as_long_as_before() {
    let lab = Lab::new();
    let consumer = lab.consumer();
    let theirs = ["1", "2", "3"].map(|id| message("theirs", id));
    lab.push(&theirs).await;
    let swap = async {
        until(async || consumer.foreign() == [("q".to_owned(), 3)]).await;
        let mut both = redis::pipe();
        both.atomic().lrem("q", 1, &theirs[1]).rpush("q", message("ours", "4"));
        both.exec_async(&mut lab.link().await).await.unwrap();
    };
    let (delivery, ()) = tokio::join!(next(&consumer), swap);
    assert_eq!(content(&delivery).id, "4");
    assert_eq!(lab.list("q").await, [theirs[0].clone(), theirs[2].clone()]);
}

#[tokio::test]
async fn a_long_queue_of_others_is_counted_and_not_judged_again_at_every_wake() {
    let lab = Lab::new();
    let consumer = lab.consumer();
    let theirs: Vec<_> = (0..2000).map(|n| message("theirs", &n.to_string())).collect();
    lab.push(&theirs).await;
    let judged = AtomicUsize::new(0);
    let counting = |look: &Envelope| {
        judged.fetch_add(1, Ordering::Relaxed);
        judge(look)
    };
    let stop = CancellationToken::new();
    let waiting = consumer.next(&counting, &stop);
    let meddling = async {
        until(async || consumer.foreign() == [("q".to_owned(), 2000)]).await;
        let mut link = lab.link().await;
        for n in 0..50 {
            let _: Option<String> = link.rpop("q", None).await.unwrap();
            until(async || consumer.foreign() == [("q".to_owned(), 1999 - n)]).await;
        }
        stop.cancel();
    };
    let (taken, ()) = tokio::join!(within(waiting), meddling);
    assert!(taken.unwrap().is_none());
    assert_eq!(judged.load(Ordering::Relaxed), 2000);
    assert_eq!(consumer.lengths().await.unwrap(), [("q".to_owned(), 1950)]);
}

#[tokio::test]
async fn a_leased_message_is_unacked_as_kombu_writes_it_until_it_is_acked() {
    let lab = Lab::new();
    let consumer = Consumer::new(lab.leases.clone(), &["celery".to_owned()]).unwrap();
    let capture = capture("transport/unacked-while-running.536");
    let seen = capture["seen"].as_array().unwrap();
    let kombus = &seen.iter().find(|key| key["redis_key"] == "unacked").unwrap()["raw"];
    let mut link = lab.link().await;
    for (tag, entry) in kombus.as_object().unwrap() {
        let entry = entry.as_str().unwrap();
        let message = entry.strip_prefix('[').unwrap().strip_suffix(r#", "", "celery"]"#).unwrap();
        let _: usize = link.lpush("celery", message).await.unwrap();
        let all = |_: &Envelope| Verdict::Take;
        let delivery = within(consumer.next(&all, &lab.stop)).await.unwrap().unwrap();
        assert_eq!(delivery.lease.tag(), tag);
        assert_eq!(link.hget::<_, _, String>("unacked", tag).await.unwrap(), entry);
        let (now, _): (f64, u64) = redis::cmd("TIME").query_async(&mut link).await.unwrap();
        let taken: f64 = link.zscore("unacked_index", tag).await.unwrap();
        assert!((now - taken).abs() < 30.0, "{taken} is the time of the take, {now}");
        assert_eq!(lab.unacked().await, [tag.as_str()]);
        delivery.lease.ack(&lab.stop).await.unwrap();
        assert_eq!(lab.unacked().await, [""; 0]);
        assert_eq!(link.llen::<_, usize>("celery").await.unwrap(), 0);
    }
}

#[tokio::test]
async fn what_is_given_back_is_served_next_and_marked_as_kombu_marks_it() {
    let lab = Lab::new();
    let consumer = lab.consumer();
    // Kombu restored this message at a warm shutdown; before, it was the same without the marks.
    let raw = &entries("transport/warm-shutdown-after.536")[0];
    let marks = [", \"redelivered\": true}", ", \"redelivered\": true}"];
    let before = marks.iter().fold(raw.clone(), |text, mark| text.replacen(mark, "}", 1));
    assert!(!before.contains("redelivered"));
    let all = |_: &Envelope| Verdict::Take;
    lab.push(&[before, message("ours", "2")]).await;
    let delivery = within(consumer.next(&all, &lab.stop)).await.unwrap().unwrap();
    assert!(!content(&delivery).redelivered);
    delivery.lease.give_back(&lab.stop).await.unwrap();
    assert_eq!(lab.list("q").await, [raw.clone(), message("ours", "2")]);
    assert_eq!(lab.unacked().await, [""; 0]);
    let again = within(consumer.next(&all, &lab.stop)).await.unwrap().unwrap();
    assert!(content(&again).redelivered);
}

#[tokio::test]
async fn priorities_go_before_queues_and_each_goes_back_to_its_own_list() {
    let lab = Lab::new();
    let consumer = Consumer::new(lab.leases.clone(), &["a".to_owned(), "b".to_owned()]).unwrap();
    let mut link = lab.link().await;
    let lists = ["a", "b", "a\x06\x163", "b\x06\x163", "a\x06\x166", "b\x06\x169"];
    for list in lists.iter().rev() {
        let _: usize = link.lpush(list, message("ours", list)).await.unwrap();
    }
    let mut taken = Vec::new();
    for _ in lists {
        taken.push(next(&consumer).await);
    }
    assert_eq!(taken.iter().map(|delivery| content(delivery).id.clone()).collect::<Vec<_>>(), lists);
    assert_eq!(taken[3].queue, "b");
    for delivery in taken {
        delivery.lease.give_back(&lab.stop).await.unwrap();
    }
    for list in lists {
        assert_eq!(link.llen::<_, usize>(list).await.unwrap(), 1, "{list}");
    }
}

#[tokio::test]
async fn a_message_for_later_is_looked_at_again_when_it_is_reconsidered() {
    let lab = Lab::new();
    let consumer = lab.consumer();
    lab.push(&[message("ours.media", "1"), message("ours.postgres", "2"), message("ours.media", "3")]).await;
    let busy = Mutex::new(true);
    let judge = |look: &Envelope| match look.task.as_str() {
        "ours.media" if *busy.lock().unwrap() => Verdict::Later,
        _ => Verdict::Take,
    };
    let stop = &lab.stop;
    let take = async || content(&within(consumer.next(&judge, stop)).await.unwrap().unwrap()).id.clone();
    assert_eq!(take().await, "2");
    let free = async {
        until(async || lab.list("q").await.len() == 2 && consumer.foreign() == [("q".to_owned(), 0)]).await;
        *busy.lock().unwrap() = false;
        consumer.reconsider();
    };
    assert_eq!(tokio::join!(take(), free).0, "1");
    assert_eq!(take().await, "3");
}

#[tokio::test]
async fn a_consumer_is_woken_by_redis_and_not_by_its_own_watch() {
    let lab = Lab::new();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hear = Arc::clone(&heard);
    // `Lab::consumer` looks by itself once in an hour; what is taken here was announced.
    let consumer = lab.consumer().on_notice(move |notice| hear.lock().unwrap().push(notice));
    for n in 0..20 {
        let id = n.to_string();
        let (delivery, ()) = tokio::join!(next(&consumer), async {
            until(async || lab.client.ping().await.is_ok()).await;
            lab.push(&[message("ours", &id)]).await;
        });
        assert_eq!(content(&delivery).id, id);
        delivery.lease.ack(&lab.stop).await.unwrap();
    }
    assert_eq!(*heard.lock().unwrap(), []);
}

#[tokio::test]
async fn without_announcements_the_queues_are_polled_and_that_is_said_once() {
    let redis = Redis::start_with(&["--rename-command", "CLIENT", ""]);
    let lab = Lab::on(redis);
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hear = Arc::clone(&heard);
    let consumer = lab.consumer().on_notice(move |notice| hear.lock().unwrap().push(notice));
    for n in 0..3 {
        let id = n.to_string();
        let (delivery, ()) = tokio::join!(next(&consumer), async {
            until(async || !heard.lock().unwrap().is_empty()).await;
            lab.push(&[message("ours", &id)]).await;
        });
        assert_eq!(content(&delivery).id, id);
    }
    let heard = heard.lock().unwrap();
    assert!(matches!(heard[..], [Notice::Polling { .. }]), "{heard:?}");
}

#[tokio::test]
async fn equal_messages_and_tags_are_taken_each_for_itself() {
    let lab = Lab::new();
    let consumer = lab.consumer();
    let (one, theirs) = (message("ours", "1"), message("theirs", "1"));
    let untagged = one.replace("tag-1", "");
    lab.push(&[&theirs, &one, &one, &theirs, &untagged, &untagged, &one]).await;
    let mut tags = Vec::new();
    let mut leases = Vec::new();
    for _ in 0..5 {
        let delivery = next(&consumer).await;
        assert_eq!(content(&delivery).id, "1");
        tags.push(delivery.lease.tag().to_owned());
        leases.push(delivery.lease);
    }
    assert_eq!(tags[0], "tag-1");
    tags.sort();
    assert_eq!(lab.unacked().await, tags);
    assert_eq!(lab.list("q").await, [theirs.clone(), theirs]);
    for lease in leases {
        lease.ack(&lab.stop).await.unwrap();
    }
    assert_eq!(lab.unacked().await, [""; 0]);
}

#[tokio::test]
async fn unreadable_entries_go_to_a_list_of_their_own_which_keeps_the_newest() {
    let lab = Lab::new();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hear = Arc::clone(&heard);
    let consumer = lab.consumer().on_notice(move |notice| hear.lock().unwrap().push(notice));
    let no_id = message("ours", "x").replace("\"id\":\"x\"", "\"id\":\"\"");
    let of_others = message("theirs", "x").replace("\"id\":\"x\"", "\"id\":null");
    let mut all: Vec<_> = (0..1005).map(|n| format!("junk {n}")).collect();
    all.extend([no_id.clone(), of_others.clone(), String::new(), message("ours", "1")]);
    lab.push(&all).await;
    assert_eq!(content(&next(&consumer).await).id, "1");
    assert_eq!(lab.list("q").await, [of_others]);
    let aside = lab.list("q.unreadable").await;
    assert_eq!((aside.len(), aside[0].as_str(), &aside[998]), (1000, "junk 7", &no_id));
    let heard = heard.lock().unwrap();
    assert_eq!(heard.len(), 1007);
    let notice = |why, bytes| Notice::Unreadable { queue: "q".to_owned(), why, bytes };
    assert_eq!(heard[0], notice("not a json object", 6));
    assert_eq!(heard[1005], notice("no task id", no_id.len()));
}

#[tokio::test]
async fn a_message_of_50_mb_is_refused_if_ours_and_stays_if_theirs() {
    let lab = Lab::new();
    let consumer = lab.consumer();
    let giant = |task: &str, id: &str| {
        with_body(task, id, "").replacen("\"\"", &format!("\"{}\"", "A".repeat(50 << 20)), 1)
    };
    lab.push(&[giant("theirs", "1"), giant("ours", "2"), message("ours", "3")]).await;
    let refused = next(&consumer).await;
    let refusal = refused.content.unwrap_err();
    assert_eq!(
        (refusal.id.as_str(), refusal.task.as_str(), refusal.exception.name()),
        ("2", "ours", "DecodeError")
    );
    refused.lease.give_back(&lab.stop).await.unwrap();
    let again = next(&consumer).await;
    assert_eq!(again.content.unwrap_err().id, "2");
    again.lease.ack(&lab.stop).await.unwrap();
    assert_eq!(content(&next(&consumer).await).id, "3");
    let left = lab.list("q").await;
    assert_eq!((left.len(), left[0] == giant("theirs", "1")), (1, true));
}

#[tokio::test]
async fn refused_contents_are_taken_under_their_id() {
    let lab = Lab::new();
    let consumer = lab.consumer();
    let pickle = entries("messages/serializer-pickle.536")[0].replace("t.add", "ours");
    lab.push(&[pickle, with_body("ours", "2", &"[".repeat(100_000)), with_body("ours", "3", "[]")]).await;
    for name in ["ContentDisallowed", "DecodeError", "DecodeError"] {
        let delivery = next(&consumer).await;
        let refusal = delivery.content.unwrap_err();
        assert_eq!(refusal.exception.name(), name);
        delivery.lease.ack(&lab.stop).await.unwrap();
    }
    assert_eq!(lab.list("q").await.len() + lab.unacked().await.len(), 0);
}

#[tokio::test]
async fn stop_ends_the_waiting() {
    let lab = Lab::new();
    let consumer = lab.consumer();
    lab.stop.cancel();
    assert!(within(consumer.next(&judge, &lab.stop)).await.unwrap().is_none());
}

#[tokio::test]
async fn two_consumers_share_a_queue_without_doubles() {
    let lab = Lab::new();
    let ids: Vec<_> = (0..200).map(|n| message("ours", &format!("{n:03}"))).collect();
    lab.push(&ids).await;
    let take_all = async || {
        let consumer = lab.consumer();
        let mut taken = Vec::new();
        while lab.link().await.llen::<_, usize>("q").await.unwrap() > 0 {
            let stop = CancellationToken::new();
            let watch = async {
                until(async || lab.link().await.llen::<_, usize>("q").await.unwrap() == 0).await;
                stop.cancel();
            };
            let mut watch = std::pin::pin!(watch);
            let mut take = std::pin::pin!(consumer.next(&judge, &stop));
            let delivery = tokio::select! {
                delivery = &mut take => delivery,
                () = &mut watch => take.await,
            };
            if let Some(delivery) = delivery.unwrap() {
                taken.push(content(&delivery).id.clone());
                delivery.lease.ack(&lab.stop).await.unwrap();
            }
        }
        taken
    };
    let (a, b) = tokio::join!(take_all(), take_all());
    let mut all = [a, b].concat();
    all.sort();
    assert_eq!(all, (0..200).map(|n| format!("{n:03}")).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_lease_that_passed_to_another_is_not_acked() {
    let lab = Lab::new();
    let consumer = lab.consumer();
    lab.push(&[message("ours", "1")]).await;
    let delivery = next(&consumer).await;
    let mut link = lab.link().await;
    let _: usize =
        link.hset("celery-redis:leases", "tag-1", json!(["other", "q", 1, 2]).to_string()).await.unwrap();
    let error = delivery.lease.ack(&lab.stop).await.unwrap_err();
    assert!(matches!(error, CeleryError::LeaseLost { .. }), "{error:?}");
    assert!(link.hexists::<_, _, bool>("unacked", "tag-1").await.unwrap());
}

#[tokio::test]
async fn a_full_redis_loses_nothing() {
    let lab = Lab::new();
    let consumer = lab.consumer();
    let mut link = lab.link().await;
    lab.push(&[message("theirs", "0"), message("ours", "1")]).await;
    let limit = async |link: &mut redis::aio::MultiplexedConnection, bytes: &str| {
        redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg(bytes).exec_async(link).await.unwrap();
    };
    limit(&mut link, "1").await;
    let lift = async {
        let failed = async || {
            let info: String =
                redis::cmd("INFO").arg("errorstats").query_async(&mut lab.link().await).await.unwrap();
            info.contains("OOM")
        };
        until(failed).await;
        assert_eq!(lab.list("q").await.len(), 2);
        limit(&mut lab.link().await, "0").await;
    };
    let (delivery, ()) = tokio::join!(next(&consumer), lift);
    assert_eq!(content(&delivery).id, "1");
    assert_eq!(lab.unacked().await, ["tag-1"]);
    assert_eq!(lab.list("q").await, [message("theirs", "0")]);
}

#[tokio::test]
async fn a_key_prefix_stands_before_every_key() {
    let lab = Lab::new();
    let keys = celery_redis::keys::Keys::new("p:");
    let instance = celery_redis::lease::Instance::here("a@b");
    let leases = celery_redis::lease::Leases::new(lab.client.clone(), keys, instance);
    let consumer = Consumer::new(leases, &["q".to_owned()]).unwrap();
    let mut link = lab.link().await;
    let _: usize = link.lpush("p:q", message("ours", "1")).await.unwrap();
    let delivery = next(&consumer).await;
    let keys: Vec<String> = link.keys("*").await.unwrap();
    assert!(keys.len() == 4 && keys.iter().all(|key| key.starts_with("p:")), "{keys:?}");
    let entry: String = link.hget("p:unacked", "tag-1").await.unwrap();
    let entry: Value = serde_json::from_str(&entry).unwrap();
    assert_eq!((&entry[1], &entry[2]), (&json!(""), &json!("q")));
    delivery.lease.ack(&lab.stop).await.unwrap();
}
