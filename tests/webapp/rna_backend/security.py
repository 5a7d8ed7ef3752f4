"""The lab's Content Security Policy: nothing inline, nothing from elsewhere."""


class ContentSecurityPolicy:
    """Sent with every page, so that a test in a browser fails on an inline script or style."""

    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        response = self.get_response(request)
        response["Content-Security-Policy"] = "default-src 'self'; img-src 'self' data:; object-src 'none'"
        return response
