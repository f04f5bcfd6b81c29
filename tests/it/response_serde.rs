//! What a response becomes when it is serialized and read again.

use kling_video::{Generation, Video};
use serde_json::{Value, json};

use crate::responses::{deserialized, fixture_names, read, retrieved};

// ---------------------------------------------------------------- serde

/// The JSON expected from serializing a response: the response itself, in canonical form where the
/// API has several.
fn canonical_json(name: &str) -> Value {
    let mut response: Value = serde_json::from_str(&read(name)).unwrap();
    let fields = response.as_object_mut().unwrap();
    let id = fields.remove("generation_id").or(fields.remove("id")).unwrap();
    let id = id.as_str().map_or_else(|| id.to_string(), str::to_owned);
    fields.insert("id".into(), id.into());
    match fields["status"].as_str().unwrap() {
        "succeeded" => fields["status"] = "completed".into(),
        "failed" => fields["status"] = "error".into(),
        _ => {}
    }
    fields.retain(|_, value| !value.is_null());
    if name == "generation-video-outer-duration.json" {
        fields["video"]["duration"] = fields["duration"].clone();
    }
    response
}

#[test]
fn generation_serializes_every_field() {
    for name in fixture_names("generation-") {
        let serialized = serde_json::to_value(deserialized(&name)).unwrap();
        assert_eq!(serialized, canonical_json(&name), "{name}");
    }
}

#[test]
fn generation_round_trips_through_serde() {
    for name in fixture_names("generation-") {
        let generation = deserialized(&name);
        let serialized = serde_json::to_string(&generation).unwrap();
        assert_eq!(serde_json::from_str::<Generation>(&serialized).unwrap(), generation, "{name}");
    }
}

/// The responses that serializing and deserializing changes.
fn changed_by_round_trip(responses: impl IntoIterator<Item = Value>) -> Vec<String> {
    let is_changed = |response: &Value| {
        let generation: Generation = serde_json::from_value(response.clone()).unwrap();
        let serialized = serde_json::to_value(&generation).unwrap();
        serde_json::from_value::<Generation>(serialized).unwrap() != generation
    };
    responses.into_iter().filter(is_changed).map(|response| response.to_string()).collect()
}

#[test]
fn known_field_of_other_type_round_trips() {
    let usage = json!({ "usage": { "credits_used": "7", "usd_spent": 1 } });
    let responses = [
        json!({ "id": "1", "status": null }),
        json!({ "id": "1", "status": 7 }),
        json!({ "id": null, "status": "queued", "generation_id": "2" }),
        json!({ "id": "1", "status": "queued", "generation_id": "2" }),
        json!({ "id": "1", "status": "queued", "video": "soon", "error": false, "meta": [] }),
        json!({ "id": "1", "status": "queued", "meta": usage }),
    ];
    assert_eq!(changed_by_round_trip(responses), [""; 0]);
}

#[test]
fn known_video_field_of_other_type_round_trips() {
    let url = "https://a/b.mp4";
    let responses = [
        json!({ "url": url, "duration": "5", "file_size": "7", "content_type": null }),
        json!({ "url": url, "duration": "5", "file_size": 1.5 }),
        json!({ "url": url, "id": "v", "usage": 7 }),
    ];
    let responses = responses.map(|video| {
        let response = json!({ "id": "1", "status": "completed", "video": video, "duration": 5 });
        let mut without_duration = response.clone();
        without_duration.as_object_mut().unwrap().remove("duration");
        [response, without_duration]
    });
    assert_eq!(changed_by_round_trip(responses.into_iter().flatten()), [""; 0]);
}

#[test]
fn video_with_its_own_id_or_usage_round_trips() {
    for fields in [json!({ "id": "v" }), json!({ "usage": { "credits_used": 1 } })] {
        let mut response =
            json!({ "id": "1", "status": "completed", "video": { "url": "https://a" } });
        response["video"].as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let video = serde_json::from_value::<Generation>(response).unwrap().video.unwrap();
        let serialized = serde_json::to_value(&video).unwrap();
        assert_eq!(
            serde_json::from_value::<Video>(serialized.clone()).unwrap(),
            video,
            "{serialized}"
        );
    }
}

#[test]
fn video_round_trips_with_id_and_usage() {
    let names = fixture_names("generation-");
    let videos: Vec<Video> = names.iter().filter_map(|name| deserialized(name).video).collect();
    assert!(videos.len() > 3, "{videos:?}");
    for video in videos {
        let serialized = serde_json::to_value(&video).unwrap();
        assert_eq!(serde_json::from_value::<Video>(serialized).unwrap(), video);
    }
}

#[test]
fn unknown_fields_are_preserved_in_place() {
    let generation = deserialized("generation-unknown-fields.json");
    assert_eq!(generation.extra["created_at"], "2026-08-21T10:00:00.000Z");
    assert_eq!(generation.extra["meta"]["usage"]["seconds_billed"], 5);
    let video = generation.video.unwrap();
    assert_eq!(video.extra["fps"], 24);
    assert_eq!(video.extra["thumbnail"]["url"], "https://cdn.aimlapi.com/generations/a.jpg");
}

#[test]
fn response_forms_are_parsed_the_same_over_http() {
    for name in fixture_names("generation-") {
        assert_eq!(retrieved(&name), deserialized(&name), "{name}");
    }
}
