"""What other tools verify about a release: model signature, test result, bill of materials, model card."""
