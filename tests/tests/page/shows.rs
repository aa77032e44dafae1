//! Each view shows what traffic did.

use serde_json::json;
use waypoint_tests::browser::{Browser, Screen, keys};

use crate::scene::{CALLS, Scene};

const SCREEN: Screen = Screen {
    width: 1280,
    height: 900,
    dark: false,
};

/// A row of a table whose text has all of these in it, as the texts of its cells.
async fn row(browser: &Browser, parts: &[&str]) -> Vec<String> {
    let script = "
        const rows = [...document.querySelectorAll('main tbody tr')];
        const row = rows.find((row) => arguments[0].every((part) => row.innerText.includes(part)));
        return row ? [...row.cells].map((cell) => cell.innerText) : null";
    let what = format!("a row with {parts:?}");
    waypoint_tests::wait::until(&what, async || {
        let cells = browser.script(script, json!([parts])).await;
        serde_json::from_value::<Option<Vec<String>>>(cells).unwrap()
    })
    .await
}

async fn view(browser: &Browser, scene: &Scene, name: &str) {
    browser.open(&format!("{}#{name}", scene.page())).await;
    browser.until_text("footer", &["as of"]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a browser: make test-page"]
async fn who_calls_whom_and_what_came_of_it() {
    let scene = Scene::played().await;
    let browser = Browser::start().await;
    browser.screen(SCREEN).await;
    browser.open(&scene.page()).await;
    let v1 = row(&browser, &["default/curl", "reviews-v1"]).await;
    let v2 = row(&browser, &["default/curl", "reviews-v2"]).await;
    let in_all = |row: &[String]| row[8].parse::<usize>().unwrap();
    // 40 answered and one denied, by the services that the route chose.
    assert_eq!(in_all(&v1) + in_all(&v2), CALLS + 1, "{v1:?} {v2:?}");
    assert!(v1[9].contains("reviews-v1-1 100 %"), "{v1:?}");
    row(&browser, &["other/stranger", "reviews-v", "100 %"]).await;
    let failed = row(&browser, &["default/curl", "failing"]).await;
    assert_eq!(failed[4], "100 %", "{failed:?}");
    browser
        .until_text(
            "svg.map",
            &["default/curl", "other/stranger", "reviews-v1-1", "failing"],
        )
        .await;
    // What happens while one looks becomes a rate.
    let mut connection = scene.curl.http1(scene.reviews).await;
    let rate = waypoint_tests::wait::until("a rate", async || {
        connection
            .send(waypoint_tests::ztunnel::get("/reviews/0"))
            .await;
        let cells = row(&browser, &["default/curl", "reviews-v1"]).await;
        (!["–", "0/s"].contains(&cells[3].as_str())).then(|| cells[3].clone())
    });
    assert!(rate.await.ends_with("/s"));
    assert_eq!(browser.complaints().await, [""; 0]);
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a browser: make test-page"]
async fn routes_policies_endpoints_certificates_and_resources() {
    let scene = Scene::played().await;
    let browser = Browser::start().await;
    browser.screen(SCREEN).await;

    view(&browser, &scene, "routes").await;
    let routes = browser
        .until_text(
            "main",
            &["reviews.default:80", "75 % configured", "25 % configured"],
        )
        .await;
    assert!(routes.contains(&format!("{CALLS} taken")), "{routes}");

    view(&browser, &scene, "policies").await;
    let own = row(&browser, &["own", "ALLOW", "1 rule, 1 service"]).await;
    assert_eq!((own[2].as_str(), own[3].as_str()), ("40", "1"), "{own:?}");
    let deny = row(&browser, &["no-writes", "DENY"]).await;
    assert_eq!(deny[3], "1", "{deny:?}");
    row(
        &browser,
        &["other/stranger", "GET /reviews/1", "ALLOW default/own"],
    )
    .await;
    row(
        &browser,
        &[
            "default/curl",
            "DELETE /reviews/2",
            "DENY default/no-writes rule 0",
        ],
    )
    .await;

    view(&browser, &scene, "endpoints").await;
    row(&browser, &["reviews-v1.default", "1 of 1", "healthy"]).await;
    row(
        &browser,
        &[
            "failing.default",
            "1 now, 1 in all",
            "consecutive 5xx: 1",
            "ejected",
        ],
    )
    .await;

    view(&browser, &scene, "certificates").await;
    row(
        &browser,
        &[
            "this waypoint",
            "spiffe://cluster.local/ns/default/sa/waypoint",
        ],
    )
    .await;
    row(&browser, &["root", "days"]).await;

    view(&browser, &scene, "resources").await;
    row(&browser, &["Cluster", "0"]).await;
    browser
        .until_text("main", &["EnvoyFilter", "manifests in"])
        .await;
    // Broken: what it said before stays.
    scene.mesh.manifest(
        "pod-odd.yaml",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: 7}\n",
    );
    browser.until_text("main", &["pod-odd.yaml"]).await;
    assert_eq!(browser.complaints().await, [""; 0]);
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a browser: make test-page"]
async fn the_log_tells_of_requests_as_they_end_and_is_filtered_in_the_page() {
    let scene = Scene::played().await;
    let browser = Browser::start().await;
    browser.screen(SCREEN).await;
    view(&browser, &scene, "log").await;
    browser.until_text("main", &["0 lines since"]).await;
    scene
        .curl
        .get(scene.reviews, "/reviews/tea?secret=leaf")
        .await;
    let denied = waypoint_tests::ztunnel::request(http::Method::DELETE, "/reviews/coffee", &[]);
    scene.curl.request(scene.reviews, denied).await;
    let told = row(
        &browser,
        &["GET /reviews/tea", "default/curl", "200", "reviews-v"],
    )
    .await;
    assert!(!told.concat().contains("secret"), "{told:?}");
    row(
        &browser,
        &[
            "DELETE /reviews/coffee",
            "403",
            "DENY default/no-writes rule 0",
        ],
    )
    .await;
    // By keyboard: the filter's field, and some letters.
    browser.tab_to("it.type === 'search'").await;
    browser.write("coffee").await;
    let left = browser.until_text("main tbody", &["coffee"]).await;
    waypoint_tests::wait::until("only coffee is left", async || {
        (!browser.text("main tbody").await.contains("tea")).then_some(())
    })
    .await;
    assert!(left.contains("DELETE"), "{left}");
    for asked in browser.asked().await {
        assert!(
            !asked.contains("coffee") && !asked.contains("reviews"),
            "{asked}"
        );
    }
    assert!(!browser.url().await.contains("coffee"));
    assert_eq!(browser.complaints().await, [""; 0]);
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a browser: make test-page"]
async fn a_request_is_explained_by_keyboard_alone() {
    let scene = Scene::played().await;
    let browser = Browser::start().await;
    browser.screen(SCREEN).await;
    browser.open(&scene.page()).await;
    browser
        .tab_to("it.textContent === 'Explain' && it.closest('nav')")
        .await;
    browser.press(&[keys::ENTER]).await;
    browser.until_text("h2", &["Explain"]).await;
    browser.tab_to("it.name === 'from'").await;
    browser.write("other/stranger").await;
    browser.tab_to("it.name === 'url'").await;
    browser.write("reviews.default/reviews/1").await;
    browser.press(&[keys::ENTER]).await;
    let denied = browser
        .until_text("main", &["Denied", "denies it", "default/own rule 0"])
        .await;
    assert!(denied.contains("doesn't match"), "{denied}");
    browser
        .script(
            "document.querySelector('[name=from]').value = 'default/curl'",
            json!([]),
        )
        .await;
    browser.press(&[keys::ENTER]).await;
    browser
        .until_text("main", &["Forwarded", "chosen", "reviews-v1", "75 %"])
        .await;
    let path = "return performance.getEntriesByType('resource').map((one) => one.name).filter((name) => name.includes('explain'))";
    let asked = browser.script(path, json!([])).await;
    assert!(!asked.to_string().contains("curl"), "{asked}");
    // What is asked is no traffic.
    let denials = scene
        .waypoint
        .metric("waypoint_policy_denials_total", &[])
        .await;
    assert_eq!(denials, 2.0);
    assert_eq!(browser.complaints().await, [""; 0]);
    browser.close().await;
}
