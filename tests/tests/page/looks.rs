//! How the page looks: on wide and narrow screens, light and dark, and for those who don't see it.

use serde_json::{Value, json};
use waypoint_tests::browser::{Browser, Screen, keys};

use crate::scene::Scene;

const VIEWS: [&str; 8] = [
    "map",
    "routes",
    "policies",
    "endpoints",
    "certificates",
    "resources",
    "log",
    "explain",
];

/// Texts whose contrast with what is behind them is below 4.5 (WCAG 2.2, 1.4.3), and controls without a name.
const FAULTS: &str = r"
    const channel = (value) => {
        const part = value / 255;
        return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    };
    const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
    const parts = (colour) => {
        canvas.clearRect(0, 0, 1, 1);
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        return canvas.getImageData(0, 0, 1, 1).data;
    };
    const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
    const behind = (element) => {
        for (let one = element; one; one = one.parentElement) {
            const colour = parts(getComputedStyle(one).backgroundColor);
            if (colour[3] === 255) return colour;
        }
        return parts(getComputedStyle(document.body).backgroundColor);
    };
    const faults = [];
    for (const element of document.querySelectorAll('body *:not(svg *, noscript, option)')) {
        const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
        if (!own || element.getClientRects().length === 0) continue;
        const [a, b] = [light(parts(getComputedStyle(element).color)), light(behind(element))];
        const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (contrast < 4.5) faults.push(`${element.tagName} ${element.textContent}: ${contrast.toFixed(2)}`);
    }
    for (const control of document.querySelectorAll('input, select, textarea, button, a, summary, [role=button]')) {
        const name = control.getAttribute('aria-label') || control.labels?.length || control.textContent.trim();
        if (!name) faults.push(`${control.outerHTML} has no name`);
    }
    return faults";

async fn looks(browser: &Browser, scene: &Scene, screen: Screen) {
    browser.screen(screen).await;
    let theme = if screen.dark { "dark" } else { "light" };
    for view in VIEWS {
        browser.open(&format!("{}#{view}", scene.page())).await;
        browser.until_text("footer", &["as of"]).await;
        if view == "log" {
            browser
                .until_text("main", &["since this view was opened"])
                .await;
            scene.curl.get(scene.reviews, "/reviews/seen").await;
            browser.until_text("main", &["/reviews/seen"]).await;
        }
        if view == "explain" {
            browser.script("document.querySelector('[name=from]').value = 'default/curl'; document.querySelector('[name=url]').value = 'reviews/reviews/1'", json!([])).await;
            browser
                .script("document.querySelector('form').requestSubmit()", json!([]))
                .await;
            browser.until_text("main", &["Forwarded"]).await;
        }
        if view == "map" {
            browser.until_text("main table", &["reviews"]).await;
        }
        let name = format!("{view}-{}-{theme}", screen.width);
        browser.picture(&name).await;
        let wide = browser
            .script("return document.documentElement.scrollWidth", json!([]))
            .await;
        let fits = wide.as_u64() <= Some(screen.width.into());
        assert!(fits, "{name} is {wide} wide");
        let faults = browser.script(FAULTS, json!([])).await;
        assert_eq!(faults, json!([]), "{name}");
    }
    assert_eq!(browser.complaints().await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a browser: make test-page"]
async fn every_view_fits_its_screen_and_can_be_read() {
    let scene = Scene::played().await;
    let browser = Browser::start().await;
    for (width, height) in [(1280, 900), (400, 800)] {
        for dark in [false, true] {
            let screen = Screen {
                width,
                height,
                dark,
            };
            looks(&browser, &scene, screen).await;
        }
    }
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a browser: make test-page"]
async fn a_view_keeps_the_focus_while_it_is_made_anew() {
    let scene = Scene::played().await;
    let browser = Browser::start().await;
    browser.open(&scene.page()).await;
    browser.until_text("svg.map", &["default/curl"]).await;
    browser
        .tab_to("it.dataset.key?.startsWith('caller') && it.textContent.includes('stranger')")
        .await;
    browser.press(&[keys::ENTER]).await;
    let focused = "const it = document.activeElement; return [it.dataset.key, it.getAttribute('aria-pressed')]";
    let before = browser.script(focused, json!([])).await;
    let rows = "return document.querySelectorAll('main tbody tr').length";
    assert_eq!(browser.script(rows, json!([])).await, 1);
    let asked = "return performance.getEntriesByType('resource').filter((one) => one.name.endsWith('/view/traffic')).length";
    let looked = browser.script(asked, json!([])).await.as_u64();
    waypoint_tests::wait::until("two more looks", async || {
        let now = browser.script(asked, json!([])).await.as_u64();
        (now >= looked.map(|n| n + 2)).then_some(())
    })
    .await;
    assert_eq!(browser.script(focused, json!([])).await, before);
    assert_eq!(before[1], "true", "{before}");
    // Theme and pause are buttons, and the theme stays.
    browser
        .script(
            "document.getElementById('theme').click(); document.getElementById('theme').click()",
            json!([]),
        )
        .await;
    browser.open(&format!("{}#map", scene.page())).await;
    browser.script("location.reload()", json!([])).await;
    browser.until_text("#theme", &["dark"]).await;
    let ground = browser
        .script(
            "return getComputedStyle(document.body).backgroundColor",
            json!([]),
        )
        .await;
    assert_eq!(ground, Value::from("rgb(14, 19, 24)"));
    browser.close().await;
}
