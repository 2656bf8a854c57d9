"""What the answers of a server are held to."""

import pytest


def assert_answers(response, recommender, histories, **options):
    assert response.status_code == 200, response.text
    found = response.json()["recommendations"]
    assert len(found) == len(histories)
    for items, history in zip(found, histories, strict=True):
        (alone,) = recommender.recommend([history], **options)
        assert [(item["item_id"], item["title"]) for item in items] == [(item.item_id, item.title) for item in alone]
        assert [item["score"] for item in items] == pytest.approx([item.score for item in alone], rel=1e-5, abs=1e-5)
