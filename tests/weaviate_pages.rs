//! Pages of objects that are read ahead of each other from a real Weaviate, and batches that are stored beside each other: each
//! object is in the export once, in the order of ids, wherever ids lie and whoever writes meanwhile, and nothing arrives late.

use crate::support::s3_proxy::{Asked, BadLine, Line};
use crate::support::weaviate_contents::vector;
use crate::support::weaviate_server::{NEWEST, OLDEST, Start, WeaviateServer};
use crate::weaviate::{backup, decode, each, left, restore};
use crate::weaviate_export::{exporter, rewrite};
use rna_backup::base::chain;
use rna_backup::component::Target;
use serde_json::{Value, json};
use std::{
    cell::RefCell,
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use uuid::Uuid;

/// Ids that lie anywhere, one behind the other, close together with wide holes between, and at both ends of all that there are.
fn awkward_ids() -> BTreeSet<Uuid> {
    let spread = (0..1500).map(|number| anywhere(number).as_u128());
    let heaps =
        (0..8).flat_map(|heap| (0..60).map(move |number| anywhere(9000 + heap).as_u128() ^ (number << 7)));
    let ends = [0, u128::MAX, u128::MAX - 1];
    spread.chain(heaps).chain(1..1200).chain(ends).map(Uuid::from_u128).collect()
}

/// An id that lies anywhere.
fn anywhere(number: u32) -> Uuid {
    Uuid::new_v5(&Uuid::NAMESPACE_OID, &number.to_be_bytes())
}

async fn put(server: &WeaviateServer, ids: impl Iterator<Item = Uuid>) {
    let object = |id: Uuid| json!({"class": "Spread", "id": id.to_string(), "vector": vector(1), "properties": {"text": id.to_string()}});
    let objects: Vec<_> = ids.map(object).collect();
    for objects in objects.chunks(500) {
        server.put(objects.to_vec()).await;
    }
}

/// The ids of the objects of an export, in its order.
fn ids_of(archive: &[u8]) -> Vec<Uuid> {
    let ids = RefCell::new(Vec::new());
    rewrite(archive, |text| {
        let objects = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        ids.borrow_mut()
            .extend(objects.map(|object| object["id"].as_str().unwrap().parse::<Uuid>().unwrap()));
        text.to_owned()
    });
    ids.into_inner()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_object_is_exported_once_wherever_ids_lie_and_whoever_writes_meanwhile() {
    each([(OLDEST, 1), (NEWEST, 1), (NEWEST, 3)], async |(version, shards)| {
        // Pages of some 150 objects, as if objects were long.
        let server = Start::version(version).set("QUERY_MAXIMUM_RESULTS", 200).server().await;
        let property = json!({"name": "text", "dataType": ["text"]});
        let sharding = json!({"desiredCount": shards});
        server
            .make(json!({"class": "Spread", "vectorizer": "none", "shardingConfig": sharding, "properties": [property]}))
            .await;
        let stay = awkward_ids();
        put(&server, stay.iter().copied()).await;
        // Now and then an answer is cut.
        let mut number = 0;
        let line = BadLine::before(&server.address(), move |asked| {
            number += usize::from(asked.target.starts_with("/v1/objects"));
            if number % 7 == 3 { Line::CutAnswer(99) } else { Line::Good }
        })
        .await;
        let component = exporter(&server, Some(line.url()));
        let is_over = Arc::new(AtomicBool::new(false));
        let writing = async {
            let mut numbers = 100_000..;
            while !is_over.load(Ordering::Relaxed) {
                let new = numbers.by_ref().take(20).map(anywhere);
                put(&server, new.chain(stay.iter().copied().take(20))).await;
            }
        };
        let exporting = async {
            let exported = backup(&component).await;
            is_over.store(true, Ordering::Relaxed);
            exported.unwrap()
        };
        let ((archive, facts), ()) = tokio::join!(exporting, writing);
        let found = ids_of(&archive);
        assert!(found.is_sorted_by(|one, next| one < next), "{version} {shards}");
        let found: BTreeSet<_> = found.into_iter().collect();
        assert!(found.is_superset(&stay), "{version} {shards}");
        assert_eq!(facts.counts.classes["Spread"], found.len() as u64);
        assert_eq!(decode(&component, &archive).await.unwrap(), facts.counts);
        let guessed = line.asked().iter().filter(|asked| begins_at_no_object(&asked.target, &found)).count();
        println!("{version}, {shards} shards: {guessed} of {} pages began where no object is", line.count(|_| true));
        assert!(guessed > 5, "pages are read ahead");
        assert_eq!(left(&server), [""; 0]);
    })
    .await;
}

fn begins_at_no_object(target: &str, found: &BTreeSet<Uuid>) -> bool {
    let after = target.split_once("&after=").map(|(_, rest)| &rest[..36]);
    after.is_some_and(|after| !found.contains(&after.parse().unwrap()))
}

/// A server with automatic schema makes a class that has been removed anew from objects that arrive later.
#[tokio::test]
async fn no_batch_of_an_import_that_fails_arrives_after_its_class_is_removed() {
    const BATCH: &str = "/v1/batch/objects";
    let server = Start::version(NEWEST).server().await;
    let property = json!({"name": "text", "dataType": ["text"]});
    server.make(json!({"class": "Spread", "vectorizer": "none", "properties": [property]})).await;
    put(&server, (0..1200).map(anywhere)).await;
    let (archive, _) = backup(&exporter(&server, None)).await.unwrap();
    server.wipe().await;
    // The first request tries some objects. Of the next two, which are under way at once, one is refused, and the other is sent
    // again since its answer is lost.
    let mut number = 0;
    let line = BadLine::before(&server.address(), move |asked: &Asked| {
        number += u32::from(asked.target == BATCH);
        match number {
            2 if asked.target == BATCH => Line::Say(422, json!({"error": [{"message": "no"}]}).to_string()),
            3 if asked.target == BATCH => Line::LoseAnswer,
            _ => Line::Good,
        }
    })
    .await;
    let err =
        chain(&restore(&exporter(&server, Some(line.url())), &archive, &Target::Live).await.unwrap_err());
    assert!(err.contains("store the objects of class Spread"), "{err}");
    let asked = line.asked();
    let last = |is_one: &dyn Fn(&Asked) -> bool| asked.iter().rposition(is_one).unwrap();
    assert_eq!(
        asked.iter().filter(|asked| asked.target == BATCH).count(),
        4,
        "the trial, two, and one of them again"
    );
    let removed = last(&|asked| asked.is_delete() && asked.target == "/v1/schema/Spread");
    assert!(last(&|asked| asked.target == BATCH) < removed, "{asked:?}");
    assert!(server.classes().await.is_empty());
}
