"""What an administrator fills in."""

from django import forms
from django.contrib.admin.widgets import AdminIntegerFieldWidget, AdminRadioSelect, AdminTextareaWidget, AdminTextInputWidget

from rna_backup_django.models import Component

LABEL_CHARS = 64
"""The worker refuses longer ones."""


class TriggerForm(forms.Form):
    """What to back up now."""

    what = forms.ChoiceField(
        label="Back up",
        choices=[("full", "Full System"), *Component.choices],
        initial="full",
        widget=AdminRadioSelect,
        help_text="Full System: everything that the worker is configured for, as one set.",
    )
    label = forms.CharField(
        max_length=LABEL_CHARS,
        required=False,
        widget=AdminTextInputWidget,
        help_text="Optional, to find it again: before the upgrade.",
    )
    pin = forms.BooleanField(required=False, label="Pin it", help_text="Retention never deletes a pinned backup.")


class RestoreForm(forms.Form):
    """Asks for the name of what will be overwritten: a click alone is too easily done."""

    OPTIONS = {"postgres": ("without", "without_rights"), "weaviate": ("with_access",)}
    """The arguments of a component's task that are fields of this form."""

    without = forms.CharField(
        required=False,
        label="without these objects",
        widget=AdminTextareaWidget(attrs={"rows": 3, "spellcheck": "false"}),
        help_text="Leave it empty: a restore that cannot make an object again (a view, an index, a policy) is then refused, and "
        "names it. Put such names here, one on each line, as the worker's message gives them: everything else is restored.",
    )
    without_rights = forms.BooleanField(
        required=False,
        label="without owners and privileges",
        help_text="Leave it empty: a restore that would lose owners or privileges is then refused, and says which. With a "
        "tick it goes on, everything belongs to the owner of the database, and others may do what new objects allow.",
    )
    with_access = forms.BooleanField(
        required=False,
        label="with users, roles and aliases",
        help_text="Those of the backup take the place of those of now. A key that was valid then is valid again, one that is "
        "newer is not, and undo brings back classes alone.",
    )
    name = forms.CharField(widget=AdminTextInputWidget(attrs={"autocomplete": "off", "spellcheck": "false"}))

    def __init__(self, component, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.component = component
        self.fields["name"].label = f"Type {component} to confirm"
        for other, options in self.OPTIONS.items():
            if other != component:
                for option in options:
                    del self.fields[option]

    def clean_name(self):
        if self.cleaned_data["name"] != self.component:
            raise forms.ValidationError(f"This is not “{self.component}”. Nothing was ordered.")
        return self.component

    def clean_without(self):
        return [name.strip() for name in self.cleaned_data["without"].splitlines() if name.strip()]

    def options(self):
        """The arguments of the task that were filled in or ticked."""
        options = {option: self.cleaned_data[option] for option in self.OPTIONS.get(self.component, ())}
        return {option: value for option, value in options.items() if value}


class CleanupForm(forms.Form):
    """What retention is to look at."""

    component = forms.ChoiceField(required=False, choices=[("", "All components"), *Component.choices])
    days = forms.IntegerField(
        required=False,
        min_value=0,
        max_value=36500,
        label="Older than, in days",
        widget=AdminIntegerFieldWidget,
        help_text="Empty: as the worker's settings say. 0: all that need not be kept.",
    )
