//! Prices before paying: reading them without the API key, and quoting only what is certain.

use std::time::Duration;

use kling_video::sandbox::{Endpoint, Fault, Sandbox};
use kling_video::{
    ErrorKind, Image, ImageToVideo, MODEL, Operation, Pricing, RetryPolicy, VideoDuration,
};
use serde_json::{Value, json};

use crate::helpers::clients::{no_retry_client, request, sandbox, test_client};

fn pricing(value: &Value) -> Pricing {
    let sandbox = sandbox();
    sandbox.set_pricing(Some(value.clone()));
    no_retry_client(&sandbox).pricing(MODEL).unwrap().unwrap()
}

/// The estimate for a request that sets no duration.
fn estimate(value: &Value) -> Option<f64> {
    pricing(value).estimate(&request())
}

fn fixed(unit: &Value) -> Value {
    json!({ "kind": "fixed", "currency": "USD", "units": [unit] })
}

/// Responds to the next request with these entries of the list of models.
fn list_models(sandbox: &Sandbox, data: &Value) {
    let body = json!({ "object": "list", "data": data }).to_string();
    sandbox.fault(Endpoint::Models, Fault::response(200, body), 1);
}

#[test]
fn pricing_is_requested_without_the_api_key() {
    let sandbox = sandbox();
    let client = test_client(&sandbox);
    // A connection that was used with the key is reused without it.
    client.balance().unwrap();
    sandbox.fault(Endpoint::Models, Fault::status(503), 1);
    client.pricing(MODEL).unwrap().unwrap();
    client.balance().unwrap();
    let requests = sandbox.requests();
    let (models, others): (Vec<_>, Vec<_>) =
        requests.iter().partition(|request| request.endpoint == Some(Endpoint::Models));
    assert_eq!((models.len(), others.len()), (2, 2));
    for request in models {
        assert_eq!(
            request.target,
            "/v1/models?id=kling-video%2Fv2.1%2Fpro%2Fimage-to-video&include=pricing"
        );
        assert!(request.headers.iter().all(|(_, value)| !value.contains(sandbox.key())));
        assert_eq!(request.header("authorization"), None);
        assert_eq!(request.header("accept"), Some("application/json"));
    }
    for request in others {
        assert_eq!(request.header("authorization"), Some("Bearer sandbox-key"));
    }
}

#[test]
fn pricing_of_unknown_model_is_none() {
    let sandbox = sandbox();
    let client = no_retry_client(&sandbox);
    for model in ["no-such-model", "", "a,b", "x&id=y", &"x".repeat(1_000)] {
        assert_eq!(client.pricing(model).unwrap(), None, "{model}");
    }
    // A server that ignores the filter, an entry without a price, and entries of other forms.
    list_models(&sandbox, &json!([{ "id": "other", "pricing": { "kind": "variable" } }]));
    assert_eq!(client.pricing(MODEL).unwrap(), None);
    list_models(&sandbox, &json!([{ "id": MODEL, "aliases": [] }]));
    assert_eq!(client.pricing(MODEL).unwrap(), None);
    list_models(
        &sandbox,
        &json!([null, 7, {}, { "id": 7, "aliases": {} }, { "id": MODEL, "pricing": [] }]),
    );
    assert_eq!(client.pricing(MODEL).unwrap(), None);
}

#[test]
fn pricing_is_found_by_id_or_alias_and_id_wins() {
    let sandbox = sandbox();
    let client = no_retry_client(&sandbox);
    let entry = |id: &str, aliases: &[&str], kind: &str| json!({ "id": id, "aliases": aliases, "pricing": { "kind": kind } });
    let kind = |model: &str| {
        let models = json!([entry("a", &["b", "c"], "alias"), entry("b", &[], "id")]);
        list_models(&sandbox, &models);
        client.pricing(model).unwrap().map(|pricing| (pricing.kind, pricing.models))
    };
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    assert_eq!(kind("a"), Some(("alias".to_owned(), names(&["a", "b", "c"]))));
    assert_eq!(kind("c"), Some(("alias".to_owned(), names(&["a", "b", "c"]))));
    assert_eq!(kind("b"), Some(("id".to_owned(), names(&["b"]))));
    assert_eq!(kind("d"), None);
    assert_eq!(kind("A"), None);
}

#[test]
fn invalid_pricing_response_is_error_not_none() {
    let sandbox = sandbox();
    let client = no_retry_client(&sandbox);
    for (fault, kind) in [
        (Fault::response(200, "<html>"), ErrorKind::Decode),
        (Fault::response(200, r#"{"data":null}"#), ErrorKind::Decode),
        (Fault::gateway(502), ErrorKind::Api),
        (Fault::close_connection(), ErrorKind::Transport),
    ] {
        sandbox.fault(Endpoint::Models, fault.clone(), 1);
        let error = client.pricing(MODEL).unwrap_err();
        assert_eq!((error.kind(), error.operation()), (kind, Operation::Pricing), "{fault:?}");
        assert!(!error.may_have_been_billed(), "{error}");
        assert!(error.to_string().starts_with("reading the price: "), "{error}");
    }
    assert_eq!(Operation::Pricing.to_string(), "pricing");
}

#[test]
fn pricing_is_retried_and_times_out_as_other_reads_are() {
    let sandbox = sandbox();
    sandbox.fault(Endpoint::Models, Fault::status(429), 2);
    test_client(&sandbox).pricing(MODEL).unwrap().unwrap();
    assert_eq!(sandbox.request_count(Endpoint::Models), 3);
    sandbox.fault(Endpoint::Models, Fault::no_response(), 1);
    let builder = sandbox.client_builder().idle_timeout(Duration::from_millis(50));
    let client = builder.retry_policy(RetryPolicy::none()).build().unwrap();
    assert_eq!(client.pricing(MODEL).unwrap_err().kind(), ErrorKind::Timeout);
}

#[test]
fn pricing_keeps_what_it_does_not_know() {
    let pricing = pricing(&json!({
        "kind": "auction", "currency": "EUR", "dimensions": ["a", 7], "note": null, "floor": 1,
        "units": [{ "name": "second", "price": "free", "per": 1 }],
        "variants": [{ "when": { "mode": "x" }, "unit": "second", "price": 1, "per": 2, "tier": 3 }],
    }));
    assert_eq!((pricing.kind.as_str(), pricing.currency.as_str()), ("auction", "EUR"));
    assert!(pricing.units.is_empty() && pricing.dimensions.is_empty());
    assert_eq!(pricing.extra.keys().collect::<Vec<_>>(), ["dimensions", "floor", "units"]);
    let rate = &pricing.variants[0];
    assert_eq!((rate.price, rate.per, rate.unit.as_str()), (1.0, 2.0, "second"));
    assert_eq!((&rate.when["mode"], &rate.extra["tier"]), (&json!("x"), &json!(3)));
    assert_eq!(pricing.estimate(&request()), None);
}

#[test]
fn estimate_is_what_the_sandbox_charges() {
    let sandbox = sandbox();
    let client = test_client(&sandbox);
    for (price, duration) in
        [(0.012, VideoDuration::FiveSeconds), (0.28, VideoDuration::TenSeconds)]
    {
        sandbox.set_price(price);
        let request = request().duration(duration);
        let before = client.balance().unwrap().amount;
        let quoted = client.pricing(MODEL).unwrap().unwrap().estimate(&request).unwrap();
        let charged = client.generate(&request).unwrap().usage.unwrap().usd_spent.unwrap();
        assert!((quoted - charged).abs() < 1e-9, "{quoted} {charged}");
        let spent = before - client.balance().unwrap().amount;
        assert!((quoted - spent).abs() < 1e-9, "{quoted} {spent}");
    }
}

#[test]
fn fixed_price_is_quoted_per_second_and_per_video() {
    for (unit, expected) in [
        (json!({ "name": "second", "price": 0.5, "per": 1 }), Some(2.5)),
        (json!({ "name": "second", "price": 0.5, "per": 5 }), Some(0.5)),
        (json!({ "name": "seconds", "measure": "output", "price": 1, "per": 1.0 }), Some(5.0)),
        (json!({ "name": "video", "price": 0.42, "per": 1 }), Some(0.42)),
        (json!({ "name": "generation", "price": 0, "per": 1, "measure": null }), Some(0.0)),
    ] {
        assert_eq!(estimate(&fixed(&unit)), expected, "{unit}");
    }
    let pricing = pricing(&fixed(&json!({ "name": "second", "price": 0.5, "per": 1 })));
    let ten = request().duration(VideoDuration::TenSeconds);
    assert_eq!(pricing.estimate(&ten), Some(5.0));
}

#[test]
fn price_that_is_not_certain_is_not_quoted() {
    let second = json!({ "name": "second", "price": 0.5, "per": 1 });
    let with = |field: &str, value: Value| {
        let mut unit = second.clone();
        unit[field] = value;
        fixed(&unit)
    };
    for price in [
        json!({}),
        json!({ "kind": "variable" }),
        json!({ "kind": "Fixed", "units": [second] }),
        json!({ "kind": "fixed" }),
        json!({ "kind": "fixed", "units": [] }),
        json!({ "kind": "fixed", "variants": [second] }),
        // Several parts: whether they add up is not documented.
        json!({ "kind": "fixed", "units": [second, { "name": "image", "price": 1, "per": 1 }] }),
        // Units of which the number is not known before, or not at all.
        with("name", json!("token")),
        with("name", json!("image")),
        with("name", json!("")),
        with("measure", json!("input")),
        // A part of `per`, which may be rounded up.
        with("per", json!(60)),
        with("per", json!(3)),
        with("per", json!(0)),
        with("per", json!(-1)),
        with("per", json!("1")),
        with("per", Value::Null),
        with("price", json!(-0.5)),
        with("price", json!(1e308)),
        with("price", json!("0.5")),
        with("price", Value::Null),
        // Something that this crate does not know.
        with("minimum", json!(10)),
        with("when", json!(7)),
        json!({ "kind": "fixed", "units": [second], "discount": 0.1 }),
        json!({ "kind": "fixed", "units": [second, 7] }),
        json!({ "kind": "fixed", "units": [second], "dimensions": ["mode"] }),
    ] {
        assert_eq!(estimate(&price), None, "{price}");
    }
}

#[test]
fn variant_is_quoted_by_the_fields_that_the_request_sets() {
    let variant = |when: Value, price: f64| json!({ "when": when, "price": price, "unit": "second", "per": 1 });
    let by_duration = |five: Value| {
        pricing(&json!({
            "kind": "variants", "dimensions": ["duration"],
            "variants": [
                { "when": { "duration": five }, "price": 0.35, "unit": "video", "per": 1 },
                { "when": { "duration": 10 }, "price": 0.70, "unit": "video", "per": 1 },
            ],
        }))
    };
    let ten = request().duration(VideoDuration::TenSeconds);
    for five in [json!(5), json!("5"), json!(5.0)] {
        let pricing = by_duration(five);
        // 5 seconds is the documented default.
        assert_eq!(pricing.estimate(&request()), Some(0.35));
        assert_eq!(pricing.estimate(&ten), Some(0.70));
    }
    assert_eq!(by_duration(json!("5s")).estimate(&request()), None);

    let by_mode = pricing(&json!({
        "kind": "variants", "dimensions": ["mode"],
        "variants": [variant(json!({ "mode": "std" }), 0.1), variant(json!({ "mode": "pro" }), 0.2)],
    }));
    assert_eq!(by_mode.estimate(&request().extra("mode", "pro".into())), Some(1.0));
    assert_eq!(by_mode.estimate(&request().extra("mode", "fast".into())), None);
    // The server's default is not known.
    assert_eq!(by_mode.estimate(&request()), None);
}

#[test]
fn variant_that_is_ambiguous_is_not_quoted() {
    let variants = |dimensions: Value, variants: Value| {
        estimate(&json!({ "kind": "variants", "dimensions": dimensions, "variants": variants }))
    };
    let five = json!({ "when": { "duration": 5 }, "price": 1, "unit": "video", "per": 1 });
    let any = json!({ "when": {}, "price": 2, "unit": "video", "per": 1 });
    let hd = json!({
        "when": { "duration": 5, "resolution": "1080p" }, "price": 3, "unit": "video", "per": 1,
    });
    assert_eq!(variants(json!(["duration"]), json!([five])), Some(1.0));
    assert_eq!(variants(json!(["duration"]), json!([five, any])), None);
    assert_eq!(variants(json!(["duration"]), json!([five, five])), None);
    // Only some of the conditions are known.
    assert_eq!(variants(json!(["duration"]), json!([five, hd])), None);
    assert_eq!(variants(json!(["duration", "resolution"]), json!([five])), None);
    assert_eq!(variants(json!(["duration"]), json!([five, null])), None);
    // It depends on something that this rate does not name.
    assert_eq!(variants(json!(["image_url"]), json!([five])), None);
    assert_eq!(variants(json!(["duration"]), json!([any])), None);
    assert_eq!(variants(json!(null), json!([five])), Some(1.0));
    assert_eq!(variants(json!(["duration"]), json!([])), None);
}

#[test]
fn estimate_is_only_for_a_valid_request_to_the_model() {
    let pricing = pricing(&fixed(&json!({ "name": "video", "price": 1, "per": 1 })));
    assert_eq!(pricing.estimate(&request()), Some(1.0));
    assert_eq!(pricing.estimate(&request().model("other")), None);
    assert_eq!(pricing.estimate(&request().cfg_scale(2.0)), None);
    // The image is not read.
    assert_eq!(pricing.estimate(&ImageToVideo::new(Image::file("/no/such/file"))), Some(1.0));
}

#[test]
fn default_duration_is_known_only_for_the_default_model() {
    let sandbox = sandbox();
    let sibling = "kling-video/v1.6/pro/image-to-video";
    sandbox.allow_model(sibling);
    let pricing = no_retry_client(&sandbox).pricing(sibling).unwrap().unwrap();
    let request = request().model(sibling);
    assert_eq!(pricing.estimate(&request), None);
    let ten = request.duration(VideoDuration::TenSeconds);
    assert_eq!(pricing.estimate(&ten), Some(0.12));
}
