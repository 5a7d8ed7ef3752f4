//! `component::weaviate` by the way `export`, against real servers: nothing of an object is changed or left out unsaid.

use crate::media_increment::peak;
use crate::support::lab::Lab;
use crate::support::s3_proxy::{Asked, BadLine, Line};
use crate::support::weaviate_contents::{id, vector};
use crate::support::weaviate_server::{NEWEST, OLDEST, Start, WeaviateServer};
use crate::weaviate::{backup, decode, each, restore};
use crate::weaviate_faults::BOTH;
use async_tar::Header;
use reqwest::Method;
use rna_backup::base::chain;
use rna_backup::component::weaviate::{BackendSetting, Weaviate, WeaviateConfig};
use rna_backup::component::{Restorable, Target};
use serde_json::{Value, json};
use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    process::Command,
};

/// A component that exports from the server at `url`, or from the server itself.
pub fn exporter(server: &WeaviateServer, url: Option<String>) -> Weaviate {
    let mut config = WeaviateConfig { backend: BackendSetting::Export, ..server.config() };
    if let Some(url) = url {
        config.server = url.parse().unwrap();
    }
    Weaviate::new(config, None)
}

fn link(from: &str, to: &str, tenant: Option<&str>) -> Value {
    let mut link =
        json!({"from": format!("weaviate://localhost/{from}"), "to": format!("weaviate://localhost/{to}")});
    if let Some(tenant) = tenant {
        link["tenant"] = json!(tenant);
    }
    link
}

/// Beside [`fill`](WeaviateServer::fill): numbers of 17 digits, references of tenants, and references to nothing.
async fn fill_with_awkward_things(server: &WeaviateServer) {
    server.fill().await;
    let numbers =
        json!([{"name": "value", "dataType": ["number"]}, {"name": "all", "dataType": ["number[]"]}]);
    server.make(json!({"class": "Measure", "vectorizer": "none", "properties": numbers})).await;
    let value = |number: u32| f64::from(number) + 1.0 / 3.0;
    let objects = (0..299).map(|number| {
        json!({"class": "Measure", "id": id(7, number), "vector": vector(number),
            "properties": {"value": value(number), "all": [value(number) * 1e-9, value(number) * 1e9]}})
    });
    server.put(objects.collect()).await;
    let stored = server.objects("Measure", None).await;
    let is_exact = |(number, object): (usize, &Value)| {
        object["properties"]["value"] == value(u32::try_from(number).unwrap())
    };
    assert!(stored.iter().enumerate().all(is_exact), "this test reads numbers to the last bit");

    let properties = json!([{"name": "name", "dataType": ["text"]}]);
    server.make(json!({"class": "Rack", "vectorizer": "none", "multiTenancyConfig": {"enabled": true}, "properties": properties})).await;
    for (name, kind) in [("beside", "Rack"), ("by", "Protocol")] {
        let property = json!({"name": name, "dataType": [kind]});
        server.ask(Method::POST, "/v1/schema/Rack/properties", Some(property)).await;
    }
    let tenants = json!([{"name": "wet"}, {"name": "dry"}, {"name": "old", "activityStatus": "COLD"}]);
    server.ask(Method::POST, "/v1/schema/Rack/tenants", Some(tenants)).await;
    let mut objects = Vec::new();
    for (tenant, number) in
        ["wet", "dry"].into_iter().flat_map(|tenant| (0..20).map(move |number| (tenant, number)))
    {
        objects.push(
            json!({"class": "Rack", "id": id(8, number), "tenant": tenant, "properties": {"name": tenant}}),
        );
    }
    server.put(objects).await;
    let rack = |number| format!("Rack/{}", id(8, number));
    let mut links = Vec::new();
    for number in 0..19 {
        links.push(link(&format!("{}/beside", rack(number)), &rack(number + 1), Some("wet")));
        links.push(link(
            &format!("{}/by", rack(number)),
            &format!("Protocol/{}", id(1, number)),
            Some("dry"),
        ));
    }
    // A reference that is there twice, and one to an object that is not there.
    let document = format!("Document/{}/follows", id(4, 0));
    for number in [0, 12345] {
        links.push(link(&document, &format!("Protocol/{}", id(1, number)), None));
    }
    server.link(links).await;
}

/// The archive with the text of each part of an export changed.
pub fn rewrite(archive: &[u8], change: impl Fn(&str) -> String) -> Vec<u8> {
    const BLOCK: usize = 512;
    let (mut rest, mut out) = (archive, Vec::new());
    loop {
        let (head, body) = rest.split_at(BLOCK);
        if head.iter().all(|byte| *byte == 0) {
            out.extend_from_slice(rest);
            return out;
        }
        let mut header = Header::new_old();
        header.as_mut_bytes().copy_from_slice(head);
        let size = usize::try_from(header.entry_size().unwrap()).unwrap();
        let mut content = body[..size].to_vec();
        if header.path_bytes().ends_with(b".zst") {
            let text = String::from_utf8(zstd::decode_all(&*content).unwrap()).unwrap();
            let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
            encoder.include_checksum(true).unwrap();
            encoder.write_all(change(&text).as_bytes()).unwrap();
            content = encoder.finish().unwrap();
            header.set_size(content.len() as u64);
            header.set_cksum();
        }
        out.extend_from_slice(header.as_bytes());
        content.resize(content.len().next_multiple_of(BLOCK), 0);
        out.extend_from_slice(&content);
        rest = &body[size.next_multiple_of(BLOCK)..];
    }
}

#[tokio::test]
async fn tenants_references_and_numbers_to_the_last_bit_come_back_from_an_export() {
    for version in [OLDEST, NEWEST] {
        let server = Start::version(version).server().await;
        fill_with_awkward_things(&server).await;
        let before = server.contents().await;
        let weaviate = exporter(&server, None);
        let (archive, facts) = backup(&weaviate).await.unwrap();
        assert_eq!(decode(&weaviate, &archive).await.unwrap(), facts.counts);
        let said = facts.warnings.join("\n");
        assert!(
            said.contains("creation and update times") && said.contains("1 inactive tenants of class Rack"),
            "{said}"
        );
        server.wipe().await;
        assert_eq!(restore(&weaviate, &archive, &Target::Live).await.unwrap(), None);
        let found = server.contents().await;
        for (class, wanted) in &before {
            assert!(found.get(class) == Some(wanted), "{version} {class}");
        }
        assert_eq!(found.len(), before.len());
    }
}

#[tokio::test]
async fn a_lost_answer_neither_doubles_references_nor_loses_objects_and_a_short_one_is_no_success() {
    each(BOTH, async |version| {
        let server = Start::version(version).server().await;
        fill_with_awkward_things(&server).await;
        let before = server.contents().await;
        let (archive, _) = backup(&exporter(&server, None)).await.unwrap();
        // Those of the trials: objects of five classes, two of which have two tenants each.
        let trials = [("/v1/batch/references", 0), ("/v1/batch/objects", 7)];
        for (path, trials) in trials {
            server.wipe().await;
            let mut number = 0;
            let line = BadLine::before(&server.address(), move |asked: &Asked| {
                number += u32::from(asked.target == path);
                if asked.target == path && [trials + 1, trials + 3].contains(&number) {
                    Line::LoseAnswer
                } else {
                    Line::Good
                }
            })
            .await;
            restore(&exporter(&server, Some(line.url())), &archive, &Target::Live).await.unwrap();
            assert!(line.count(|asked| asked.target == path) > 3, "two answers of {path} were lost");
            let found = server.contents().await;
            for (class, wanted) in &before {
                assert!(found.get(class) == Some(wanted), "{version} {path} {class}");
            }
        }
        for (path, trials) in trials {
            server.wipe().await;
            let mut number = 0;
            let line = BadLine::before(&server.address(), move |asked: &Asked| {
                number += u32::from(asked.target == path);
                if asked.target == path && number > trials {
                    Line::Say(200, String::new())
                } else {
                    Line::Good
                }
            })
            .await;
            let short = WeaviateConfig { second: std::time::Duration::from_millis(5), ..server.config() };
            let short = Weaviate::new(WeaviateConfig { server: line.url().parse().unwrap(), ..short }, None);
            let err = chain(&restore(&short, &archive, &Target::Live).await.unwrap_err());
            assert!(err.contains("results of 0 items, and "), "{err}");
        }
    })
    .await;
}

#[tokio::test]
async fn vectors_of_both_kinds_and_aliases_come_back_and_a_class_that_cannot_is_named_before() {
    let server = Start::version(NEWEST).server().await;
    let none = json!({"vectorizer": {"none": {}}, "vectorIndexType": "hnsw"});
    server.make(json!({"class": "Both", "vectorizer": "none", "properties": []})).await;
    let mut both = server.classes().await["Both"].clone();
    both["vectorConfig"] = json!({"late": none});
    server.ask(Method::PUT, "/v1/schema/Both", Some(both)).await;
    let mut many = none.clone();
    many["vectorIndexConfig"] = json!({"multivector": {"enabled": true}});
    server
        .make(json!({"class": "Many", "vectorConfig": {"many": many, "one": none}, "properties": []}))
        .await;
    server.make(json!({"class": "Author", "vectorizer": "none", "properties": []})).await;
    server
        .make(json!({"class": "Paper", "vectorizer": "none", "properties": [{"name": "by", "dataType": ["Author"]}]}))
        .await;
    let objects = (0..20).flat_map(|number| {
        let many = [vector(number), vector(number + 1)];
        [
            json!({"class": "Both", "id": id(1, number), "vector": vector(number), "vectors": {"late": vector(number + 3)}}),
            json!({"class": "Many", "id": id(2, number), "vectors": {"many": many, "one": vector(number)}}),
            json!({"class": "Author", "id": id(3, number)}),
            json!({"class": "Paper", "id": id(4, number)}),
        ]
    });
    server.put(objects.collect()).await;
    for alias in ["People", "Folk"] {
        server.ask(Method::POST, "/v1/aliases", Some(json!({"alias": alias, "class": "Author"}))).await;
    }
    let before = server.contents().await;
    let aliases = server.ask(Method::GET, "/v1/aliases", None).await;
    let weaviate = exporter(&server, None);
    let (archive, facts) = backup(&weaviate).await.unwrap();
    assert!(!facts.warnings.iter().any(|warning| warning.contains("refers to")), "{:?}", facts.warnings);
    server.wipe().await;

    let err = chain(&restore(&weaviate, &archive, &Target::custom("include", ["Paper"])).await.unwrap_err());
    assert!(err.contains("class Paper refers to class Author, which is not there"), "{err}");
    assert!(server.classes().await.is_empty());
    server.make(json!({"class": "Other", "vectorizer": "none", "properties": []})).await;
    server.ask(Method::POST, "/v1/aliases", Some(json!({"alias": "Both", "class": "Other"}))).await;
    let err = chain(&restore(&weaviate, &archive, &Target::Live).await.unwrap_err());
    assert!(err.contains("Both is an alias of class Other now: delete that alias first"), "{err}");
    let err = chain(&weaviate.plan(&Target::Live, Some(&facts)).await.unwrap_err());
    assert!(err.contains("Both is an alias of class Other now"), "the dry run says so too: {err}");
    assert_eq!(server.classes().await.len(), 1);
    server.wipe().await;
    restore(&weaviate, &archive, &Target::Live).await.unwrap();
    assert!(server.contents().await == before);
    let found = server.ask(Method::GET, "/v1/aliases", None).await;
    let names = |found: &Value| {
        let mut names: Vec<_> =
            found["aliases"].as_array().unwrap().iter().map(ToString::to_string).collect();
        names.sort();
        names
    };
    assert_eq!(names(&found), names(&aliases));

    server.ask(Method::DELETE, "/v1/schema/Author", None).await;
    let (_, facts) = backup(&weaviate).await.unwrap();
    let said = facts.warnings.join("\n");
    assert!(said.contains("class Paper refers to class Author, which is not there"), "{said}");
}

#[tokio::test]
async fn a_class_that_is_deleted_during_an_import_does_not_come_back_with_guessed_types() {
    let server = Start::version(NEWEST).set("AUTOSCHEMA_ENABLED", "true").server().await;
    let property = json!({"name": "code", "dataType": ["text"], "tokenization": "field"});
    server.make(json!({"class": "Label", "vectorizer": "none", "properties": [property]})).await;
    let objects =
        (0..50).map(|number| json!({"class": "Label", "id": id(1, number), "properties": {"code": "A-1"}}));
    server.put(objects.collect()).await;
    let (archive, _) = backup(&exporter(&server, None)).await.unwrap();
    server.wipe().await;
    let address = server.address();
    let line = BadLine::before(&server.address(), move |asked: &Asked| {
        if asked.target == "/v1/batch/objects" {
            // Somebody else deletes the class at this moment.
            let mut server = TcpStream::connect(&address).unwrap();
            let delete = "DELETE /v1/schema/Label HTTP/1.1\r\nHost: weaviate\r\nConnection: close\r\n\r\n";
            server.write_all(delete.as_bytes()).unwrap();
            server.read_to_string(&mut String::new()).unwrap();
        }
        Line::Good
    })
    .await;
    let restored = restore(&exporter(&server, Some(line.url())), &archive, &Target::Live).await;
    let err = chain(&restored.unwrap_err());
    assert!(err.contains("class Label: somebody has deleted or changed it meanwhile"), "{err}");
    assert!(server.classes().await.is_empty());
}

#[tokio::test]
async fn a_server_that_gives_few_objects_at_once_is_exported_in_smaller_pages() {
    let server = Start::version(OLDEST).set("QUERY_MAXIMUM_RESULTS", 7).server().await;
    server.make(json!({"class": "Note", "vectorizer": "none", "properties": []})).await;
    server.put((0..100).map(|number| json!({"class": "Note", "id": id(1, number)})).collect()).await;
    let (archive, facts) = backup(&exporter(&server, None)).await.unwrap();
    assert_eq!(facts.counts.classes["Note"], 100);
    assert_eq!(decode(&exporter(&server, None), &archive).await.unwrap(), facts.counts);
}

#[tokio::test]
async fn an_object_that_is_longer_than_other_answers_is_exported_and_imported_in_little_memory() {
    /// Longer than any other answer may be.
    const TEXT: usize = 65 << 20;
    let server = Start::version(OLDEST).server().await;
    let property =
        json!({"name": "text", "dataType": ["text"], "indexFilterable": false, "indexSearchable": false});
    server.make(json!({"class": "Scan", "vectorizer": "none", "properties": [property]})).await;
    let mut random = crate::support::chance::Chance::new(7);
    let text: String = (0..TEXT).map(|_| char::from(*random.of(b"abcdefghijklmnopqrstuvwxyz"))).collect();
    server.put(vec![json!({"class": "Scan", "id": id(1, 1), "properties": {"text": text}})]).await;
    server
        .put(
            (2..60)
                .map(|number| json!({"class": "Scan", "id": id(1, number), "properties": {"text": "s"}}))
                .collect(),
        )
        .await;
    let lab = Lab::new()
        .set("BACKUP_COMPONENTS", "weaviate")
        .set("BACKUP_WEAVIATE_BACKEND", "export")
        .set("WEAVIATE_URL", server.url());
    let exported = peak(&lab, &["backup", "weaviate"]);
    server.wipe().await;
    let name = lab.manifests("weaviate")[0]["backup_id"].as_str().unwrap().to_owned();
    let imported = peak(&lab, &["restore", "weaviate", &name, "--yes"]);
    // Without optimisation the program's own code is much larger than what people run.
    let code = peak(&lab, &["list"]);
    println!("peak of the export: {exported} kB, of the import: {imported} kB, of a listing: {code} kB");
    // An export holds the object and what it is packed to, an import the object and the server's answer, which repeats it.
    // A third copy of the object would be more than the rest may be.
    let most = code + u64::try_from(2 * TEXT / 1024).unwrap() + 24_000;
    assert!(exported < most && imported < most, "{exported} {imported} {code}");
    let found = server.objects("Scan", None).await;
    assert!(found.len() == 59 && found[0]["properties"]["text"] == json!(text));
}

#[tokio::test]
async fn the_lines_of_the_documentation_bring_an_export_back_by_hand() {
    let server = Start::version(NEWEST).server().await;
    fill_with_awkward_things(&server).await;
    let mut both = server.classes().await["Protocol"].clone();
    both["vectorConfig"] = json!({"late": {"vectorizer": {"none": {}}, "vectorIndexType": "hnsw"}});
    server.ask(Method::PUT, "/v1/schema/Protocol", Some(both)).await;
    server.ask(Method::POST, "/v1/aliases", Some(json!({"alias": "Steps", "class": "Protocol"}))).await;
    let before = server.contents().await;
    let (archive, _) = backup(&exporter(&server, None)).await.unwrap();
    server.wipe().await;

    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/restore.md")).unwrap();
    let lines = page.split_once("# Weaviate, an export").unwrap().1;
    let lines = lines.split_once('\n').unwrap().1.split_once("```").unwrap().0;
    let folder = tempfile::tempdir().unwrap();
    let packed = folder.path().join("weaviate_backup_20261122_030000.tar.zst");
    fs::write(packed, zstd::encode_all(&*archive, 3).unwrap()).unwrap();
    let ran = Command::new("bash")
        .args(["-e", "-o", "pipefail", "-c", lines])
        .current_dir(folder.path())
        .env("WEAVIATE_URL", server.url())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ran.stdout).into_owned() + &String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success() && !said.contains("error"), "{said}");
    let found = server.contents().await;
    for (class, wanted) in &before {
        assert!(found.get(class) == Some(wanted), "{class}: {said}");
    }
    let aliases = server.ask(Method::GET, "/v1/aliases", None).await;
    assert_eq!(aliases["aliases"][0]["class"], "Protocol");
}
